//! Futures in parallel within one task, so that they may borrow.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs all of them; the results keep their order.
pub(crate) async fn all<T>(futures: Vec<Boxed<'_, T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(|cx| {
        for (future, result) in &mut running {
            let Some(pending) = future else { continue };
            if let Poll::Ready(value) = pending.as_mut().poll(cx) {
                *result = Some(value);
                *future = None;
            }
        }
        if running.iter().all(|(future, _)| future.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, result)| result).collect()
}

/// The first value that one of them yields; `None` when all ended without one.
pub(crate) async fn first<T>(futures: Vec<Boxed<'_, Option<T>>>) -> Option<T> {
    let mut running = futures;
    poll_fn(|cx| {
        let mut found = None;
        running.retain_mut(|future| match future.as_mut().poll(cx) {
            Poll::Ready(value) => {
                found = found.take().or(value);
                false
            }
            Poll::Pending => true,
        });
        match found {
            Some(value) => Poll::Ready(Some(value)),
            None if running.is_empty() => Poll::Ready(None),
            None => Poll::Pending,
        }
    })
    .await
}
