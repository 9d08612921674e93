//! The driver's side of what it hands out.

use std::io;
use std::os::fd::OwnedFd;

use adit_netstack::{FlowId, PendingId};
use tokio::sync::oneshot;

use super::commands::{Mailbox, Notice};
use crate::{BoxFuture, ConnectFailure, Flow, FlowHandle, IncomingHandle};

/// A connected flow that nobody carries yet.
#[derive(Debug)]
pub(super) struct HeldFlow {
    flow: Option<FlowId>,
    mailbox: Mailbox,
}

impl HeldFlow {
    pub(super) fn new(flow: FlowId, mailbox: Mailbox) -> Self {
        Self { flow: Some(flow), mailbox }
    }
}

impl FlowHandle for HeldFlow {
    fn attach(mut self: Box<Self>, socket: OwnedFd) -> io::Result<()> {
        if let Some(flow) = self.flow.take() {
            self.mailbox.notify(Notice::Attach(flow, socket));
        }
        Ok(())
    }
}

impl Drop for HeldFlow {
    fn drop(&mut self) {
        if let Some(flow) = self.flow.take() {
            self.mailbox.notify(Notice::Abort(flow));
        }
    }
}

/// A connection that a peer asks for.
#[derive(Debug)]
pub(super) struct HeldIncoming {
    pending: Option<PendingId>,
    mailbox: Mailbox,
}

impl HeldIncoming {
    pub(super) fn new(pending: PendingId, mailbox: Mailbox) -> Self {
        Self { pending: Some(pending), mailbox }
    }
}

impl IncomingHandle for HeldIncoming {
    fn accept(mut self: Box<Self>) -> BoxFuture<'static, Result<Flow, ConnectFailure>> {
        let (reply, answer) = oneshot::channel();
        if let Some(pending) = self.pending.take() {
            self.mailbox.notify(Notice::Accept(pending, reply));
        }
        Box::pin(async move { answer.await.unwrap_or(Err(ConnectFailure::Closed)) })
    }

    fn refuse(self: Box<Self>) {
        // Dropping it does so.
    }

    fn ignore(mut self: Box<Self>) {
        if let Some(pending) = self.pending.take() {
            self.mailbox.notify(Notice::Ignore(pending));
        }
    }
}

impl Drop for HeldIncoming {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.mailbox.notify(Notice::Refuse(pending));
        }
    }
}
