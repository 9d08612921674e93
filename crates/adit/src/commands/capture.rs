//! `adit capture`

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use adit_path::{CaptureFailure, FILE_HEADER, Network, Packets};

use crate::access;
use crate::cli::{CaptureArgs, Context};
use crate::commands::until_interrupted;
use crate::session::runtime;
use crate::{Exit, Failure, failure};

/// How the capture ended.
#[derive(Default)]
struct Tally {
    packets: u64,
    missed: u64,
}

/// Records the packets inside a running `adit up` until it ends, somebody interrupts, or it is enough.
pub(crate) fn run(context: &mut Context, args: &CaptureArgs) -> Result<Exit, Failure> {
    runtime()?.block_on(async {
        let Some(client) = access::attach(&context.global).await? else {
            return Err(access::not_running(&context.global));
        };
        let packets = client.capture().await.map_err(|why| refused(&why))?;
        let packets = packets.packets().map_err(|error| failure::internal(error.to_string()))?;
        let mut file = open(&args.output)?;
        context.ui.note("recording; Ctrl-C ends it");
        let mut tally = Tally::default();
        let recorded = record(args, packets, &mut *file, &mut tally);
        let outcome = match until_interrupted(recorded).await {
            // Ending it is how it ends.
            Err(failure) if failure.exit == Exit::Interrupted => Ok(()),
            outcome => outcome,
        };
        context.ui.note(&summary(&tally));
        outcome.map(|()| Exit::Ok)
    })
}

async fn record(
    args: &CaptureArgs,
    mut packets: Packets,
    file: &mut dyn Write,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let failed = |error: io::Error| unwritten(&args.output, &error);
    file.write_all(&FILE_HEADER).and_then(|()| file.flush()).map_err(failed)?;
    let enough = tokio::time::sleep(args.duration.unwrap_or(std::time::Duration::MAX));
    tokio::pin!(enough);
    let mut record = Vec::new();
    while args.count.is_none_or(|count| tally.packets < count) {
        let next = tokio::select! {
            next = packets.next() => next,
            () = &mut enough => return Ok(()),
        };
        let next = next.map_err(|error| failure::internal(format!("packets cannot be read: {error}")))?;
        let Some(captured) = next else { return Ok(()) };
        tally.packets += 1;
        tally.missed += u64::from(captured.missed);
        record.clear();
        captured.write(&mut record);
        // Whoever reads along wants to see each packet when it passes.
        match file.write_all(&record).and_then(|()| file.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(failed)?,
        }
    }
    Ok(())
}

fn summary(tally: &Tally) -> String {
    match tally.missed {
        0 => format!("{} packets", tally.packets),
        missed => format!("{} packets; {missed} passed too fast to be recorded", tally.packets),
    }
}

/// Packets are not for everybody to read.
fn open(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path.as_os_str() == "-" {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(failure::usage("packets are no text for a terminal").with_fix(vec![
                "write them to a file: -o x.pcap, or read them: | tcpdump -n -r -".to_owned(),
            ]));
        }
        return Ok(Box::new(stdout));
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map(|file| Box::new(file) as Box<dyn Write>).map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    failure::of("env.stdout", format!("packets cannot be written to {}", path.display()))
        .seen(error.to_string())
}

fn refused(why: &CaptureFailure) -> Failure {
    match why {
        CaptureFailure::Exhausted(what) => {
            failure::of("env.fd_limit", "the running `adit up` shows its packets to nobody more")
                .seen(format!("out of {what}"))
                .with_fix(vec!["end another `adit capture`".to_owned()])
        }
        CaptureFailure::Unsupported | CaptureFailure::Closed => {
            failure::of("env.daemon_gone", "the running `adit up` shows no packets").seen(why.to_string())
        }
    }
}
