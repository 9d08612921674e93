//! `adit man`

use std::fs;
use std::io;
use std::path::Path;

use crate::cli::{self, Context, ManArgs};
use crate::{Exit, Failure, failure};

/// Writes `adit.1`, `adit-exec.1` and so on.
pub(crate) fn run(context: &mut Context, args: &ManArgs) -> Result<Exit, Failure> {
    let pages = write_pages(&args.directory).map_err(|error| {
        failure::of("env.readonly_fs", format!("man pages cannot be written to {}", args.directory.display()))
            .seen(error.to_string())
            .with_fix(vec!["give a directory that you may write to".to_owned()])
    })?;
    context.ui.note(&format!("{pages} man pages in {}", args.directory.display()));
    Ok(Exit::Ok)
}

fn write_pages(directory: &Path) -> io::Result<usize> {
    fs::create_dir_all(directory)?;
    let mut definition = cli::definition().disable_help_subcommand(true);
    definition.build();
    write_page(directory, &definition, "adit")
}

/// Writes the page of a command and those of its own commands; the title carries the whole path.
fn write_page(directory: &Path, command: &clap::Command, title: &str) -> io::Result<usize> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(title.to_uppercase()).render(&mut page)?;
    fs::write(directory.join(format!("{title}.1")), page)?;
    let mut pages = 1;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        pages += write_page(directory, sub, &format!("{title}-{}", sub.get_name()))?;
    }
    Ok(pages)
}
