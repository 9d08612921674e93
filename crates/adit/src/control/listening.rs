//! The client's side of a listening conversation: several pending connections share it, each with its number.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use adit_path::{BoxFuture, ConnectFailure, Flow, FlowHandle, Incoming, IncomingHandle, Listener};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::message::{self, Decision, Ends, Reply, Request};
use super::wire::{Connection, WireError};

type Outcome = Result<Ends, ConnectFailure>;

/// What a handle asks of the conversation. Unbounded, because each number of the daemon's own bounded set
/// asks at most twice.
enum Command {
    Decide(u64, Decision),
    Accept(u64, oneshot::Sender<Outcome>),
    Attach(u64, OwnedFd),
    Abandon(u64),
}

/// Runs the conversation until the listener and all connections from it are gone.
pub(super) fn start(runtime: &Handle, connection: Connection, port: u16, backlog: u16) -> Listener {
    let (incoming, queue) = mpsc::channel(usize::from(backlog.max(1)));
    let (commands, orders) = mpsc::unbounded_channel();
    let conversation = Conversation { connection, incoming, accepting: BTreeMap::new() };
    runtime.spawn(async move {
        if let Err(error) = conversation.run(commands, orders).await {
            tracing::debug!(%error, "the listener at the control socket ended");
        }
    });
    Listener::new(port, queue)
}

struct Conversation {
    connection: Connection,
    incoming: mpsc::Sender<Incoming>,
    accepting: BTreeMap<u64, oneshot::Sender<Outcome>>,
}

impl Conversation {
    async fn run(
        mut self,
        commands: mpsc::UnboundedSender<Command>,
        mut orders: mpsc::UnboundedReceiver<Command>,
    ) -> Result<(), WireError> {
        let mut commands = Some(commands);
        let listener = self.incoming.clone();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await?,
                    None => return Ok(()),
                },
                () = listener.closed(), if commands.is_some() => commands = None,
                body = self.connection.receive() => {
                    let reply = message::decode(&body?)?;
                    self.hear(reply, commands.as_ref()).await?;
                }
            }
        }
    }

    async fn obey(&mut self, order: Command) -> Result<(), WireError> {
        match order {
            Command::Decide(id, decision) => self.connection.send(&Request::Decide { id, decision }).await,
            Command::Accept(id, answer) => {
                self.accepting.insert(id, answer);
                self.connection.send(&Request::Decide { id, decision: Decision::Accept }).await
            }
            Command::Attach(id, socket) => {
                self.connection.send_with(&Request::AttachAccepted { id }, socket.as_fd()).await
            }
            Command::Abandon(id) => self.connection.send(&Request::Abandon { id }).await,
        }
    }

    async fn hear(
        &mut self,
        reply: Reply,
        commands: Option<&mpsc::UnboundedSender<Command>>,
    ) -> Result<(), WireError> {
        match (reply, commands) {
            (Reply::Incoming { id, ends }, Some(commands)) => {
                let pending = RemoteIncoming { id, commands: Some(commands.clone()) };
                // A full or closed queue drops the handle, which refuses the connection.
                let _refused =
                    self.incoming.try_send(Incoming::new(ends.local, ends.peer, Box::new(pending)));
                Ok(())
            }
            (Reply::Incoming { id, .. }, None) => {
                self.connection.send(&Request::Decide { id, decision: Decision::Refuse }).await
            }
            (Reply::Accepted { id, outcome }, _) => {
                let answer = self.accepting.remove(&id).ok_or(WireError::OutOfTurn)?;
                match answer.send(outcome) {
                    // Whoever accepted has lost interest.
                    Err(Ok(_)) => self.connection.send(&Request::Abandon { id }).await,
                    Err(Err(_)) | Ok(()) => Ok(()),
                }
            }
            _ => Err(WireError::OutOfTurn),
        }
    }
}

struct RemoteIncoming {
    id: u64,
    commands: Option<mpsc::UnboundedSender<Command>>,
}

impl RemoteIncoming {
    fn decide(&mut self, decision: Decision) {
        if let Some(commands) = self.commands.take() {
            // Without a conversation there is no connection either.
            let _gone = commands.send(Command::Decide(self.id, decision));
        }
    }
}

impl Drop for RemoteIncoming {
    fn drop(&mut self) {
        self.decide(Decision::Refuse);
    }
}

impl IncomingHandle for RemoteIncoming {
    fn accept(mut self: Box<Self>) -> BoxFuture<'static, Result<Flow, ConnectFailure>> {
        Box::pin(async move {
            let commands = self.commands.take().ok_or(ConnectFailure::Closed)?;
            let (answer, outcome) = oneshot::channel();
            commands.send(Command::Accept(self.id, answer)).map_err(|_| ConnectFailure::Closed)?;
            let Ends { local, peer } = outcome.await.unwrap_or(Err(ConnectFailure::Closed))?;
            Ok(Flow::new(local, peer, Box::new(RemoteAccepted { id: self.id, commands: Some(commands) })))
        })
    }

    fn refuse(mut self: Box<Self>) {
        self.decide(Decision::Refuse);
    }

    fn ignore(mut self: Box<Self>) {
        self.decide(Decision::Ignore);
    }
}

struct RemoteAccepted {
    id: u64,
    commands: Option<mpsc::UnboundedSender<Command>>,
}

impl Drop for RemoteAccepted {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take() {
            let _gone = commands.send(Command::Abandon(self.id));
        }
    }
}

impl FlowHandle for RemoteAccepted {
    fn attach(mut self: Box<Self>, socket: OwnedFd) -> io::Result<()> {
        let commands = self.commands.take().ok_or(io::ErrorKind::NotConnected)?;
        commands
            .send(Command::Attach(self.id, socket))
            .map_err(|_| io::Error::from(io::ErrorKind::NotConnected))
    }
}
