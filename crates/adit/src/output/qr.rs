//! An address as a QR code in text, for a telephone that is held before the screen.

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

/// The code, two rows of modules a line, for a dark background; `None` for a text that is too long for one.
pub(crate) fn code(text: &str) -> Option<String> {
    let code = QrCode::new(text).ok()?;
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_code_and_a_book_is_none() {
        let shown = code("https://login.example.com/a/0123456789abcdef").unwrap();
        let widths: Vec<usize> = shown.lines().map(|line| line.chars().count()).collect();
        // 17 modules and 4 for each version, 4 of quiet on each side; two rows are a line.
        let width = widths[0];
        assert!(
            width >= 29 && (width - 25).is_multiple_of(4) && widths.len() == width.div_ceil(2),
            "{widths:?}\n{shown}"
        );
        assert!(widths.iter().all(|other| *other == width), "{widths:?}\n{shown}");
        assert!(shown.chars().all(|c| " \n▀▄█".contains(c)), "{shown}");
        assert_eq!(code(&"x".repeat(8000)), None);
    }
}
