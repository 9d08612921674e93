//! Reading a profile: includes, `setenv opt`, unknown options, and the files that options name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::lex::{Directive, Token, lex};
use super::options::{self, OptionSpec, Treatment};
use super::text::decode;
use crate::{Opened, Problem, Reader, Secret};

/// How deep files may include each other, as in the reference.
const MAX_DEPTH: usize = 10;
/// How many files a profile may include.
const MAX_INCLUDES: usize = 32;

/// Reads the files that a profile names.
pub trait Files {
    /// The content of a file; `what` names it in problems. With `secret`, others must not be able to read it; the
    /// second value is what is doubtful about that.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn read(&mut self, path: &Path, what: &str, secret: bool) -> Result<(Secret, Option<Problem>), Problem>;

    /// The names of the files in a directory, sorted; `what` names it in problems. By default there is none.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn list(&mut self, path: &Path, what: &str) -> Result<Vec<String>, Problem> {
        Err(unlisted(path, what))
    }
}

/// The problem of a directory that cannot be read.
fn unlisted(path: &Path, what: &str) -> Problem {
    Problem::new("ovpn.file.missing", format!("{what} cannot be read: {}", path.display()))
        .fix("put the directory next to the profile, or name its path")
}

/// No directory of a profile has more files that matter.
const MAX_FILES: usize = 4096;

impl Files for Reader {
    fn read(&mut self, path: &Path, what: &str, secret: bool) -> Result<(Secret, Option<Problem>), Problem> {
        let opened: Opened = self.open(path, what)?;
        let doubt = if secret { self.admit(&opened, what)? } else { None };
        Ok((opened.content, doubt))
    }

    fn list(&mut self, path: &Path, what: &str) -> Result<Vec<String>, Problem> {
        let failed = |error: std::io::Error| unlisted(path, what).seen(error.to_string());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            if names.len() == MAX_FILES {
                let summary = format!("{} has more than {MAX_FILES} files", path.display());
                return Err(Problem::new("ovpn.config.unsupported", summary).fix("give one file instead"));
            }
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }
}

/// No files at all: the profile must be whole in itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&mut self, path: &Path, what: &str, _: bool) -> Result<(Secret, Option<Problem>), Problem> {
        Err(Problem::new("ovpn.file.missing", format!("{what} is in another file: {}", path.display())))
    }
}

/// What stands in a block or in a named file.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Secret,
    /// The file's name; `None` for a block.
    pub(super) file: Option<PathBuf>,
}

/// Collects what is said about a profile while it is read.
pub(super) struct Reading<'f> {
    files: &'f mut dyn Files,
    directory: PathBuf,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Evidence of what is not carried out: `line 7: up …`.
    pub(super) ignored: Vec<String>,
    pub(super) metadata: Vec<String>,
    /// The options that the profile has, used or not.
    pub(super) seen: BTreeSet<&'static str>,
    ignorable: BTreeSet<String>,
    forward_compatible: bool,
    includes: usize,
}

impl<'f> Reading<'f> {
    pub(super) fn new(files: &'f mut dyn Files, profile: &Path) -> Self {
        // A profile from a pipe has no place of its own; the working directory stands for it.
        let piped = profile.starts_with("/dev") || profile.starts_with("/proc");
        let directory = profile.parent().filter(|_| !piped).map(Path::to_owned).unwrap_or_default();
        Self {
            files,
            directory,
            problems: Vec::new(),
            warnings: Vec::new(),
            ignored: Vec::new(),
            metadata: Vec::new(),
            seen: BTreeSet::new(),
            ignorable: BTreeSet::new(),
            forward_compatible: false,
            includes: 0,
        }
    }

    /// The directives of a profile and of what it includes, each with its row of the table.
    pub(super) fn profile(&mut self, bytes: &[u8]) -> Vec<(Directive, &'static OptionSpec)> {
        let mut directives = Vec::new();
        self.include(bytes, None, 0, &mut directives);
        self.switches(&directives);
        directives.into_iter().filter_map(|directive| self.known(directive)).collect()
    }

    fn include(&mut self, bytes: &[u8], file: Option<&str>, depth: usize, all: &mut Vec<Directive>) {
        let text = match decode(bytes) {
            Ok((text, odd)) => {
                self.warnings.extend(odd.map(|odd| Problem { file: file.map(str::to_owned), ..odd }));
                text
            }
            Err(problem) => {
                self.problems.push(Problem { file: file.map(str::to_owned), ..problem });
                return;
            }
        };
        let lexed = lex(&text, 1, file);
        self.problems.extend(lexed.problems);
        self.warnings.extend(lexed.warnings);
        self.metadata.extend(lexed.metadata);
        for directive in lexed.directives {
            match directive.name.text.as_str() {
                "config" => self.other(&directive, depth, all),
                "cd" => {
                    if let Some(to) = directive.arg(0) {
                        self.directory = self.directory.join(to);
                    }
                    all.push(directive);
                }
                _ => all.push(directive),
            }
        }
    }

    /// `config`: another file in place of the line.
    fn other(&mut self, directive: &Directive, depth: usize, all: &mut Vec<Directive>) {
        if directive.arg(0).is_none_or(|name| name == "stdin") {
            return self.wrong(
                directive,
                None,
                "`config` has no file name",
                "name a file, or delete the line",
            );
        }
        self.includes += 1;
        if depth >= MAX_DEPTH || self.includes > MAX_INCLUDES {
            return self.wrong(
                directive,
                Some(0),
                "files include each other too deep",
                "look for a file that includes itself",
            );
        }
        let Some(content) = self.content(directive, 0, "the included file", false) else { return };
        // What holds a key is for nobody else's eyes; that shows only after reading.
        let secret = decode(content.bytes.expose()).is_ok_and(|(text, _)| super::holds_secret(&text));
        if secret && self.content(directive, 0, "the included file", true).is_none() {
            return;
        }
        let name = content.file.as_deref().map(|path| path.display().to_string());
        self.include(content.bytes.expose(), name.as_deref(), depth + 1, all);
    }

    /// Options about options count wherever they stand.
    fn switches(&mut self, directives: &[Directive]) {
        for directive in directives {
            match (directive.name.text.as_str(), directive.arg(0)) {
                ("ignore-unknown-option", Some(_)) => {
                    self.ignorable.extend(directive.args.iter().map(|token| token.text.clone()));
                }
                ("setenv", Some("FORWARD_COMPATIBLE")) => {
                    self.forward_compatible = directive.arg(1) == Some("1");
                }
                _ => {}
            }
        }
    }

    /// Looks a directive up, and says what there is to say about it.
    fn known(&mut self, mut directive: Directive) -> Option<(Directive, &'static OptionSpec)> {
        let optional = directive.name.text == "setenv" && directive.arg(0) == Some("opt");
        if optional && directive.args.len() > 1 {
            directive.name = directive.args.remove(1);
            directive.args.remove(0);
        }
        let Some(spec) = options::find(&directive.name.text) else {
            self.unknown(&directive, optional);
            return None;
        };
        self.seen.insert(spec.name);
        if directive.block.is_some() && !spec.inline {
            let fix = format!("write {} with a parameter", spec.name);
            self.wrong(&directive, None, &format!("<{}> is no block", spec.name), &fix);
            return None;
        }
        match spec.treatment {
            Treatment::Used => {}
            Treatment::Quiet => return None,
            Treatment::Noted(why) => {
                self.not_done(&directive, why);
                return None;
            }
            // Modes other than `server` are refused where they are known.
            Treatment::Refused(why) => {
                let summary = format!("`{}` cannot be used: {why}", spec.name);
                self.problems.push(directive.problem(
                    None,
                    Problem::new("ovpn.config.unsupported", summary).fix(
                        "remove the option if the server does not need it; else ask for another profile",
                    ),
                ));
                return None;
            }
        }
        let count = directive.args.len();
        if directive.block.is_none() && !(spec.least..=spec.most).contains(&count) {
            let takes = match (spec.least, spec.most) {
                (0, 0) => "no parameters".to_owned(),
                (least, most) if least == most => format!("{least}"),
                (least, most) => format!("{least} to {most}"),
            };
            let summary = format!("`{}` has {count} parameters and takes {takes}", spec.name);
            // Trailing words of a line are harmless, and some exporters write them.
            if count > spec.most {
                let place = Some(spec.most);
                self.doubt(&directive, place, "ovpn.config.odd", summary, "delete what is too much");
                directive.args.truncate(spec.most);
            } else {
                self.wrong(&directive, None, &summary, &format!("complete it: {}", spec.about));
                return None;
            }
        }
        Some((directive, spec))
    }

    fn unknown(&mut self, directive: &Directive, optional: bool) {
        let name = directive.name.text.as_str();
        if self.ignorable.contains(name) {
            return;
        }
        let shown: String = name.chars().take(64).collect();
        let fix = match options::nearest(name) {
            Some(near) => format!("was `{near}` meant?"),
            None => "delete the line, if the server does not need it".to_owned(),
        };
        let mut problem =
            Problem::new("ovpn.config.unknown", format!("there is no option `{shown}`; it is left out"))
                .fix(fix);
        if optional || self.forward_compatible {
            let why = if optional { "`setenv opt`" } else { "`setenv FORWARD_COMPATIBLE 1`" };
            tracing::debug!(option = %shown, why, "an unknown option is left out, as the profile says");
            return;
        }
        problem = directive.problem(None, problem);
        self.warnings.push(problem);
    }

    /// The block or the file that an option names; what cannot be read has been reported.
    /// The names of the files in the directory that an argument names. What is wrong is reported.
    pub(super) fn list(&mut self, directive: &Directive, index: usize, what: &str) -> Option<Vec<String>> {
        let path = self.directory.join(directive.arg(index)?);
        self.files
            .list(&path, what)
            .map_err(|problem| self.problems.push(directive.problem(Some(index), problem)))
            .ok()
    }

    /// A file in the directory that an argument names. What is wrong is reported.
    pub(super) fn member(
        &mut self,
        directive: &Directive,
        index: usize,
        name: &str,
        what: &str,
    ) -> Option<Secret> {
        let path = self.directory.join(directive.arg(index)?).join(name);
        match self.files.read(&path, what, false) {
            Ok((bytes, _)) => Some(bytes),
            Err(problem) => {
                self.problems.push(directive.problem(Some(index), problem));
                None
            }
        }
    }

    pub(super) fn content(
        &mut self,
        directive: &Directive,
        index: usize,
        what: &str,
        secret: bool,
    ) -> Option<Content> {
        if let Some(block) = &directive.block {
            let bytes = Secret::new(block.text.as_bytes().to_vec());
            return Some(Content { bytes, file: None });
        }
        let name = directive.arg(index)?;
        // The old form of a block: `ca [inline]`, and <ca> elsewhere.
        if name == "[inline]" {
            return None;
        }
        match self.open(name, what, secret) {
            Ok((path, bytes, doubts)) => {
                self.warnings.extend(doubts.into_iter().map(|doubt| directive.problem(Some(index), doubt)));
                Some(Content { bytes, file: Some(path) })
            }
            Err(problem) => {
                self.problems.push(directive.problem(Some(index), problem));
                None
            }
        }
    }

    fn open(
        &mut self,
        name: &str,
        what: &str,
        secret: bool,
    ) -> Result<(PathBuf, Secret, Vec<Problem>), Problem> {
        let path = self.directory.join(name);
        let first = match self.files.read(&path, what, secret) {
            Ok((bytes, doubt)) => return Ok((path, bytes, doubt.into_iter().collect())),
            Err(problem) => problem,
        };
        // A profile that comes from another machine has its files next to it, whatever path it names.
        let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
        if last != name && first.class != "credential.permissions" {
            let near = self.directory.join(last);
            if let Ok((bytes, doubt)) = self.files.read(&near, what, secret) {
                let moved = Problem::new("ovpn.config.odd", format!("{name} is not there; {last} is used"))
                    .seen(format!("it stands next to the profile: {}", near.display()))
                    .fix(format!("write {last}"));
                return Ok((near, bytes, std::iter::once(moved).chain(doubt).collect()));
            }
        }
        if first.class == "credential.permissions" {
            return Err(first);
        }
        Err(Problem { class: "ovpn.file.missing", ..first }
            .fix("put the file next to the profile, or its content into the profile as a block"))
    }

    /// Reports what is wrong with a directive (`ovpn.config.parse`).
    pub(super) fn wrong(&mut self, at: &Directive, index: Option<usize>, summary: &str, fix: &str) {
        self.problems.push(at.problem(index, Problem::new("ovpn.config.parse", summary).fix(fix)));
    }

    /// Reports that adit cannot do what a directive says (`ovpn.config.unsupported`).
    pub(super) fn refused(&mut self, at: &Directive, index: Option<usize>, summary: &str, fix: &str) {
        self.problems.push(at.problem(index, Problem::new("ovpn.config.unsupported", summary).fix(fix)));
    }

    /// Reports what is doubtful.
    pub(super) fn doubt(
        &mut self,
        at: &Directive,
        index: Option<usize>,
        class: &'static str,
        summary: impl Into<String>,
        fix: &str,
    ) {
        self.warnings.push(at.problem(index, Problem::new(class, summary).fix(fix)));
    }

    /// Notes that a directive is not carried out.
    pub(super) fn not_done(&mut self, at: &Directive, why: &str) {
        let file = at.file.as_deref().map_or(String::new(), |file| format!("{file} "));
        self.ignored.push(format!("{file}line {}: {}: {why}", at.line, at.name.text));
    }

    /// A whole number in a range; anything else has been reported.
    pub(super) fn number(&mut self, at: &Directive, index: usize, least: u64, most: u64) -> Option<u64> {
        let Token { text, .. } = at.args.get(index)?;
        match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                let summary = format!("`{}` is not a number from {least} to {most}", shown(text));
                self.wrong(at, Some(index), &summary, "write a number of that range");
                None
            }
        }
    }
}

/// A text for a message: not too long, and without what a terminal would obey.
pub(super) fn shown(text: &str) -> String {
    let mut text: String =
        text.chars().take(81).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().count() > 80 {
        text = text.chars().take(79).chain(['…']).collect();
    }
    text
}
