//! Lines, tokens and inline blocks, with their places.

use zeroize::Zeroizing;

use crate::{Place, Problem};

const PARSE: &str = "ovpn.config.parse";
const ODD: &str = "ovpn.config.odd";

/// No profile has more lines; a certificate revocation list may be long.
const MAX_LINES: usize = 50_000;
/// The reference takes 16 parameters of 256 bytes.
const MAX_TOKENS: usize = 64;
const MAX_TOKEN: usize = 8192;

/// A word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// The word without quotes and escapes.
    pub(super) text: String,
    /// The column of its first character, from 1.
    pub(super) column: usize,
    /// How many characters it has in the line.
    pub(super) length: usize,
}

/// The content of `<tag> … </tag>`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// The lines between the tags, each with a line feed.
    pub(super) text: Zeroizing<String>,
    /// The number of the first of these lines, from 1.
    pub(super) first_line: usize,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} lines)", self.text.lines().count())
    }
}

/// A line that says something: an option with its parameters, or an inline block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    /// The option's name, without `--`.
    pub(super) name: Token,
    /// The parameters.
    pub(super) args: Vec<Token>,
    /// The content of an inline block.
    pub(super) block: Option<Block>,
    /// The line, from 1.
    pub(super) line: usize,
    /// The line's text, without what could be a key.
    pub(super) text: String,
    /// The file, where it is not the profile itself.
    pub(super) file: Option<String>,
}

impl Directive {
    /// The parameter's text.
    pub(super) fn arg(&self, index: usize) -> Option<&str> {
        self.args.get(index).map(|token| token.text.as_str())
    }

    /// The place of a parameter, or of the name where there is no such parameter.
    pub(super) fn place(&self, index: Option<usize>) -> Place {
        let token = index.and_then(|index| self.args.get(index)).unwrap_or(&self.name);
        Place { line: self.line, column: token.column, length: token.length.max(1), text: self.text.clone() }
    }

    /// Puts a problem at a parameter, or at the name.
    pub(super) fn problem(&self, index: Option<usize>, problem: Problem) -> Problem {
        Problem { file: self.file.clone(), ..problem.at(self.place(index)) }
    }
}

/// A line for messages: without what could be a key, and without what a terminal would obey.
pub(super) fn censored(raw: &str) -> String {
    let raw = crate::wgquick::censored(raw);
    raw.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// What a text holds.
#[derive(Debug, Default)]
pub(super) struct Lexed {
    /// The lines in their order.
    pub(super) directives: Vec<Directive>,
    /// Comment lines of OpenVPN Access Server, without `#`: `OVPN_ACCESS_SERVER_…=…`.
    pub(super) metadata: Vec<String>,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
    /// What is odd, and was understood.
    pub(super) warnings: Vec<Problem>,
}

/// Reads a text. Lines count from `first`; `file` names a file that is not the profile itself.
pub(super) fn lex(text: &str, first: usize, file: Option<&str>) -> Lexed {
    let mut lexed = Lexed::default();
    let mut lines = text.lines().enumerate().map(|(index, raw)| (first + index, raw));
    while let Some((number, raw)) = lines.next() {
        if number - first >= MAX_LINES {
            lexed.problems.push(
                Problem::new(PARSE, format!("the profile has more than {MAX_LINES} lines"))
                    .fix("give an OpenVPN client profile"),
            );
            break;
        }
        metadata(raw, &mut lexed);
        let mut line = Line { number, raw, file, lexed: &mut lexed };
        let Some(tokens) = line.tokens() else { continue };
        let mut tokens = tokens.into_iter();
        let Some(mut name) = tokens.next() else { continue };
        let args: Vec<Token> = tokens.collect();
        let mut block = None;
        if let Some(tag) = tag(&name.text).filter(|_| args.is_empty()) {
            if tag.starts_with('/') {
                let found = format!("<{tag}> closes a block that was not opened");
                line.wrong(&name, PARSE, found, "delete the line, or add the opening tag above");
                continue;
            }
            let close = format!("</{tag}>");
            let mut content = Zeroizing::new(String::new());
            let mut closed = false;
            for (_, inner) in lines.by_ref() {
                if inner.trim_start().starts_with(&close) {
                    closed = true;
                    break;
                }
                content.reserve(inner.len() + 1);
                content.push_str(inner);
                content.push('\n');
            }
            if !closed {
                let found = format!("the block <{tag}> is not closed");
                line.wrong(&name, PARSE, found, &format!("add a line {close} behind its content"));
                continue;
            }
            block = Some(Block { text: content, first_line: number + 1 });
            name.text = tag.to_owned();
        } else if let Some(rest) = name.text.strip_prefix("--") {
            name.text = rest.to_owned();
        }
        let (text, file) = (censored(raw), file.map(str::to_owned));
        lexed.directives.push(Directive { name, args, block, line: number, text, file });
    }
    lexed
}

fn tag(text: &str) -> Option<&str> {
    let tag = text.strip_prefix('<')?.strip_suffix('>')?;
    let name = tag.strip_prefix('/').unwrap_or(tag);
    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    fits.then_some(tag)
}

fn metadata(raw: &str, lexed: &mut Lexed) {
    let comment = raw.trim_start().strip_prefix('#').map(str::trim_start);
    if let Some(comment) = comment.filter(|text| text.starts_with("OVPN_ACCESS_SERVER_"))
        && lexed.metadata.len() < MAX_TOKENS
    {
        lexed.metadata.push(comment.chars().take(512).collect());
    }
}

/// What the tokenizer is inside of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Double,
    Single,
    /// Typographic quotes, as text processors and mail programs make of plain ones.
    Curly(char),
}

struct Line<'a> {
    number: usize,
    raw: &'a str,
    file: Option<&'a str>,
    lexed: &'a mut Lexed,
}

impl Line<'_> {
    /// The words of a line; `None` if it cannot be read, which has been reported.
    fn tokens(&mut self) -> Option<Vec<Token>> {
        let raw = self.raw;
        let mut tokens: Vec<Token> = Vec::new();
        let mut characters = raw.chars().zip(1..).peekable();
        while let Some((character, column)) = characters.next() {
            if character.is_whitespace() {
                continue;
            }
            if matches!(character, '#' | ';') {
                break;
            }
            let mut token = Token { text: String::new(), column, length: 1 };
            let quote = opened(character);
            let mut pending = (quote == Quote::None).then_some(character);
            let mut closed = quote == Quote::None;
            while let Some(next) = pending.take().or_else(|| {
                let (next, at) = characters.peek().copied()?;
                if quote == Quote::None && next.is_whitespace() {
                    return None;
                }
                characters.next();
                token.length = at + 1 - column;
                Some(next)
            }) {
                if closes(quote, next) {
                    closed = true;
                    break;
                }
                if next == '\\' && quote != Quote::Single {
                    let escaped = characters.peek().map(|(escaped, _)| *escaped);
                    match escaped {
                        Some(escaped @ ('\\' | '"' | ' ')) => {
                            characters.next();
                            token.length += 1;
                            token.text.push(escaped);
                        }
                        _ => {
                            token.text.push(next);
                            self.odd(
                                column,
                                "a backslash stands before a character that it does not escape; it was kept",
                                "write two backslashes for one, or use slashes in paths",
                            );
                        }
                    }
                } else {
                    token.text.push(next);
                }
            }
            if !closed {
                self.wrong(&token, PARSE, "a quote is not closed".to_owned(), "add the closing quote");
                return None;
            }
            if matches!(quote, Quote::Curly(_)) {
                self.odd(
                    column,
                    "these are typographic quotes; they were taken for plain ones",
                    "write \" in their place",
                );
            }
            if token.text.len() > MAX_TOKEN || tokens.len() >= MAX_TOKENS {
                let what = format!("the line is too long: at most {MAX_TOKENS} words of {MAX_TOKEN} bytes");
                self.wrong(&token, PARSE, what, "shorten it");
                return None;
            }
            tokens.push(token);
        }
        Some(tokens)
    }

    fn place(&self, column: usize, length: usize) -> Place {
        Place { line: self.number, column, length, text: censored(self.raw) }
    }

    fn wrong(&mut self, token: &Token, class: &'static str, summary: String, fix: &str) {
        let problem = Problem::new(class, summary).fix(fix).at(self.place(token.column, token.length));
        self.lexed.problems.push(Problem { file: self.file.map(str::to_owned), ..problem });
    }

    fn odd(&mut self, column: usize, summary: &str, fix: &str) {
        // Once in a line is enough.
        let said = |last: &Problem| {
            last.summary == summary && last.place.as_ref().is_some_and(|place| place.line == self.number)
        };
        if self.lexed.warnings.last().is_some_and(said) {
            return;
        }
        let problem = Problem::new(ODD, summary).fix(fix).at(self.place(column, 1));
        self.lexed.warnings.push(Problem { file: self.file.map(str::to_owned), ..problem });
    }
}

fn opened(character: char) -> Quote {
    match character {
        '"' => Quote::Double,
        '\'' => Quote::Single,
        '\u{201c}' | '\u{201d}' => Quote::Curly('\u{201d}'),
        '\u{201e}' => Quote::Curly('\u{201c}'),
        '\u{2018}' | '\u{2019}' => Quote::Curly('\u{2019}'),
        _ => Quote::None,
    }
}

fn closes(quote: Quote, character: char) -> bool {
    match quote {
        Quote::None => false,
        Quote::Double => character == '"',
        Quote::Single => character == '\'',
        Quote::Curly(close) => character == close || (close == '\u{201c}' && character == '\u{201d}'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        let lexed = lex(text, 1, None);
        assert!(lexed.problems.is_empty(), "{:?}", lexed.problems);
        lexed
            .directives
            .into_iter()
            .map(|d| std::iter::once(d.name.text).chain(d.args.into_iter().map(|a| a.text)).collect())
            .collect()
    }

    #[test]
    fn quotes_escapes_comments_and_dashes_follow_the_manual() {
        for (text, expected) in [
            ("remote vpn.example.com 1194 # main", vec!["remote", "vpn.example.com", "1194"]),
            ("--dev tun ; comment", vec!["dev", "tun"]),
            (r#"setenv NAME "a b \"c\" \\d""#, vec!["setenv", "NAME", r#"a b "c" \d"#]),
            (r"x 'a \ b' c\ d", vec!["x", r"a \ b", "c d"]),
            ("x a#b c;d \"#e\"", vec!["x", "a#b", "c;d", "#e"]),
            ("x \"\" ''", vec!["x", "", ""]),
            ("\tdev\ttun\r", vec!["dev", "tun"]),
            ("x ab\"c", vec!["x", "ab\"c"]),
            ("x \"a\"b", vec!["x", "a", "b"]),
        ] {
            assert_eq!(words(text), [expected], "{text}");
        }
        assert!(words("# x\n;y\n   \n").is_empty());
    }

    #[test]
    fn a_block_is_verbatim_until_its_closing_tag() {
        let lexed = lex("client\r\n<ca>\r\n# kept\r\n\"x\r\n </ca> tail\r\ndev tun\r\n", 1, None);
        let block = lexed.directives[1].block.as_ref().unwrap();
        assert_eq!((block.text.as_str(), block.first_line), ("# kept\n\"x\n", 3));
        assert_eq!((lexed.directives[2].name.text.as_str(), lexed.directives[2].line), ("dev", 6));
    }

    #[test]
    fn what_cannot_be_read_is_shown_at_its_place() {
        for (text, line, column, word) in [
            ("client\n  remote \"vpn", 2, 10, "quote is not closed"),
            ("<ca>\nx\n", 1, 1, "<ca> is not closed"),
            ("dev tun\n</ca>\n", 2, 1, "not opened"),
        ] {
            let problem = lex(text, 1, None).problems.remove(0);
            let place = problem.place.unwrap();
            assert_eq!((place.line, place.column), (line, column), "{text}");
            assert!(problem.summary.contains(word), "{}", problem.summary);
        }
    }

    #[test]
    fn typographic_quotes_and_lone_backslashes_are_understood_and_reported() {
        let lexed = lex("log \u{201c}C:\\VPN\u{201d}\nx \u{201e}a b\u{201c}", 1, None);
        assert_eq!(lexed.directives[0].arg(0), Some("C:\\VPN"));
        assert_eq!(lexed.directives[1].arg(0), Some("a b"));
        let classes: Vec<_> = lexed.warnings.iter().map(|warning| warning.class).collect();
        assert_eq!(classes, [ODD, ODD, ODD]);
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_repeated() {
        let lexed = lex("x \u{1b}[2J \"y", 1, None);
        let place = lexed.problems[0].place.clone().unwrap();
        assert_eq!(place.text, "x \u{fffd}[2J \"y");
    }

    #[test]
    fn columns_count_characters() {
        let lexed = lex("größe  \"a b\" c\\ d", 1, None);
        let places: Vec<_> = lexed.directives[0].args.iter().map(|t| (t.column, t.length)).collect();
        assert_eq!(places, [(8, 5), (14, 4)]);
    }

    #[test]
    fn metadata_of_access_server_is_kept() {
        let lexed = lex("# OVPN_ACCESS_SERVER_PROFILE=a@b\n#x\n", 1, None);
        assert_eq!(lexed.metadata, ["OVPN_ACCESS_SERVER_PROFILE=a@b"]);
    }
}
