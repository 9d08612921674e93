//! Strict reading of TOML tables: every key is asked for by name, and what was not asked for is an error.

use std::ops::Range;

use adit_providers::wgquick::censored;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::setting::{Origin, Setting};
use crate::failure::{self, Failure, Location};

/// A text with a name, to find places in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// The line, from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.before(offset).matches('\n').count() + 1
    }

    fn before(&self, offset: usize) -> &str {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        &self.text[..end]
    }

    pub(super) fn location(&self, span: Range<usize>) -> Location {
        let before = self.before(span.start);
        let head = before.rsplit('\n').next().unwrap_or("");
        let start = before.len() - head.len();
        let line = self.text[start..].lines().next().unwrap_or("");
        let column = head.chars().count() + 1;
        let inside = self.text.get(before.len()..span.end.min(start + line.len())).unwrap_or("");
        Location {
            file: self.file.to_owned(),
            line: self.line(span.start),
            column,
            length: inside.chars().count().max(1),
            text: censored(line).into_owned(),
        }
    }

    /// The place of a value that may be a secret: the text shows what is in front of it.
    pub(super) fn secret_location(&self, span: Range<usize>) -> Location {
        let mut location = self.location(span);
        let head: String = location.text.chars().take(location.column - 1).collect();
        location.text = format!("{head}[redacted]");
        location.length = "[redacted]".len();
        location
    }
}

/// What reading goes on with: the text, and the failures so far.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) source: Source<'a>,
    pub(super) failures: Vec<Failure>,
}

impl Reader<'_> {
    pub(super) fn wrong(&mut self, span: Range<usize>, summary: String, fix: &str) {
        let failure = failure::of("config.value", summary).with_fix(vec![fix.to_owned()]);
        self.failures.push(failure.in_file(self.source.location(span)));
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin::File { file: self.source.file.to_owned(), line: self.source.line(span.start) }
    }
}

/// A table that is being read.
pub(super) struct Table<'t, 'i> {
    /// Like `profile.staging.verify`; empty for the top level.
    path: String,
    span: Range<usize>,
    entries: &'t DeTable<'i>,
    known: Vec<&'static str>,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<'t, 'i> Table<'t, 'i> {
    pub(super) fn new(path: String, span: Range<usize>, entries: &'t DeTable<'i>) -> Self {
        Self { path, span, entries, known: Vec::new() }
    }

    /// Like `profile.staging`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The name of a key for messages.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// Whether a value is there and is true or false. The key counts as asked for only when it is read.
    pub(super) fn is_boolean(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, value)| name.get_ref() == key && value.get_ref().as_bool().is_some())
    }

    fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.entries.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    fn expect<T>(
        &mut self,
        key: &'static str,
        kind: &str,
        reader: &mut Reader<'_>,
        pick: impl FnOnce(&'t DeValue<'i>) -> Option<T>,
    ) -> Option<Found<T>> {
        let value = self.get(key)?;
        match pick(value.get_ref()) {
            Some(found) => Some(Found { value: found, span: value.span() }),
            None => {
                let is = value.get_ref().type_str();
                let summary = format!("`{}` is of the type {is}; it must be {kind}", self.name(key));
                reader.wrong(value.span(), summary, &format!("write {kind}"));
                None
            }
        }
    }

    pub(super) fn text(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Option<Found<&'t str>> {
        self.expect(key, "a string in quotes", reader, |value| value.as_str())
    }

    pub(super) fn boolean(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Option<Setting<bool>> {
        let found = self.expect(key, "true or false", reader, |value| value.as_bool())?;
        Some(Setting::new(found.value, reader.origin(&found.span)))
    }

    pub(super) fn integer(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Option<Found<i64>> {
        self.expect(key, "a whole number", reader, |value| {
            let integer = value.as_integer()?;
            i64::from_str_radix(integer.as_str(), integer.radix()).ok()
        })
    }

    /// A string that is read further.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        reader: &mut Reader<'_>,
        read: impl FnOnce(&str) -> Result<T, (String, String)>,
    ) -> Option<Setting<T>> {
        let found = self.text(key, reader)?;
        match read(found.value) {
            Ok(value) => Some(Setting::new(value, reader.origin(&found.span))),
            Err((why, fix)) => {
                reader.wrong(found.span, format!("`{}` cannot be used: {why}", self.name(key)), &fix);
                None
            }
        }
    }

    /// An array of strings (numbers count as their digits), each read further.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        reader: &mut Reader<'_>,
        read: impl Fn(&str) -> Result<T, (String, String)>,
    ) -> Option<Setting<Vec<T>>> {
        let found = self.expect(key, "a list, like [\"…\", \"…\"]", reader, |value| value.as_array())?;
        let mut values = Vec::new();
        for item in found.value.iter() {
            let text = match item.get_ref() {
                DeValue::String(text) => text.as_ref(),
                DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
                other => {
                    let summary =
                        format!("`{}` holds a value of the type {}", self.name(key), other.type_str());
                    reader.wrong(item.span(), summary, "write strings in quotes");
                    continue;
                }
            };
            match read(text) {
                Ok(value) => values.push(value),
                Err((why, fix)) => {
                    reader.wrong(item.span(), format!("`{}` cannot be used: {why}", self.name(key)), &fix);
                }
            }
        }
        Some(Setting::new(values, reader.origin(&found.span)))
    }

    pub(super) fn table(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Option<Self> {
        let found = self.expect(key, "a table", reader, |value| value.as_table())?;
        Some(Self::new(self.name(key), found.span, found.value))
    }

    pub(super) fn tables(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Vec<Self> {
        let Some(found) = self.expect(key, "a list of tables", reader, |value| value.as_array()) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in found.value.iter().enumerate() {
            match item.get_ref().as_table() {
                Some(table) => {
                    tables.push(Self::new(format!("{}[{}]", self.name(key), index + 1), item.span(), table));
                }
                None => reader.wrong(
                    item.span(),
                    format!("`{}` holds something that is no table", self.name(key)),
                    &format!("write [[{}]] and its keys below", self.name(key)),
                ),
            }
        }
        tables
    }

    /// The tables of a table whose keys are free names.
    pub(super) fn named(self, reader: &mut Reader<'_>) -> Vec<(String, Self)> {
        let mut tables = Vec::new();
        for (name, value) in self.entries {
            let path = self.name(name.get_ref());
            match value.get_ref().as_table() {
                Some(table) => tables.push((name.get_ref().to_string(), Self::new(path, name.span(), table))),
                None => reader.wrong(
                    name.span(),
                    format!("`{path}` is no table"),
                    &format!("write [{path}] and its keys below"),
                ),
            }
        }
        tables
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self, reader: &mut Reader<'_>) {
        self.finish_with(&[], reader);
    }

    /// Reports every key that was not asked for. `below` are keys of tables inside this one, with the table.
    pub(super) fn finish_with(self, below: &[(&'static str, &str)], reader: &mut Reader<'_>) {
        for (key, _) in self.entries {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place =
                if self.path.is_empty() { "the top level".to_owned() } else { format!("[{}]", self.path) };
            let short: String = name.chars().take(40).collect();
            let failure = failure::of("config.key", format!("`{short}` is not a key of {place}"));
            let inside: Vec<&str> = below.iter().map(|(key, _)| *key).collect();
            let failure = match (nearest(name, &self.known), nearest(name, &inside)) {
                (Some(near), _) => failure.with_fix(vec![format!("write `{near}`")]),
                (None, Some(near)) => {
                    let table = below.iter().find(|(key, _)| *key == near).map_or("", |(_, table)| *table);
                    failure.with_fix(vec![format!("write `{near}` in [{}]", self.name(table))])
                }
                (None, None) => failure
                    .seen(format!("known keys: {}", self.known.join(", ")))
                    .with_fix(vec!["delete the line, or use a key that is known".to_owned()]),
            };
            reader.failures.push(failure.in_file(reader.source.location(key.span())));
        }
    }
}

/// The word that was probably meant.
pub(super) fn nearest<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    let word: String = word.chars().take(64).collect::<String>().to_lowercase();
    words
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&word, known), *known))
        .filter(|(distance, known)| *distance <= 1 || *distance * 3 <= known.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
