//! The words of a pushed option: those of a line in a profile.

/// An option has at most this many words; the rest is left out.
const MAX_WORDS: usize = 64;

/// Cuts an option into words. Words in double quotes know `\"`, `\\` and `\ ` as escapes, as bare words do; in single
/// quotes nothing is special. `None` if a quote or an escape does not end.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let Some(&first) = rest.peek() else { return Some(words) };
        if words.len() == MAX_WORDS || first == '#' || first == ';' {
            return Some(words);
        }
        let mut word = String::new();
        // A word may change its quotes on the way, as in `"a b"c`.
        let mut quote = None;
        loop {
            match (rest.next(), quote) {
                (None, None) => break,
                (None, Some(_)) => return None,
                (Some(c), Some(q)) if c == q => quote = None,
                (Some('\\'), None | Some('"')) => word.push(rest.next()?),
                (Some(c @ ('"' | '\'')), None) => quote = Some(c),
                (Some(c), None) if c.is_ascii_whitespace() => break,
                (Some(c), _) => word.push(c),
            }
        }
        words.push(word);
    }
}

/// Writes a word so that [`words`] reads it back. Words hold no comma: nothing could carry one.
pub(super) fn quoted(word: &str) -> String {
    let special = |c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\'' | '\\' | '#' | ';');
    if !word.is_empty() && !word.contains(special) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_those_of_a_profile() {
        for (text, expected) in [
            ("route 10.0.0.0  255.0.0.0", &["route", "10.0.0.0", "255.0.0.0"][..]),
            ("\techo \"a b\" 'c\\d' e\\ f", &["echo", "a b", "c\\d", "e f"]),
            ("dhcp-option \"DNS\"\t\"\\\"x\\\\\" ''", &["dhcp-option", "DNS", "\"x\\", ""]),
            ("ping 10 # every ten seconds", &["ping", "10"]),
            ("a;b ;c", &["a;b"]),
            ("   ", &[]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
        for text in ["\"a", "'a", "a\\", "\"a\\"] {
            assert_eq!(words(text), None, "{text}");
        }
        assert_eq!(words(&"a ".repeat(1000)).unwrap().len(), 64);
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_back(word in "\\PC{0,12}", other in "[ -~]{0,12}") {
            let text = format!("{} {}", quoted(&word), quoted(&other));
            prop_assert_eq!(words(&text), Some(vec![word, other]));
        }
    }
}
