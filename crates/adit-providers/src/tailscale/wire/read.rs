//! Reading lists element by element.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The elements of a list that can be read; the others are named in the log. `null` is an empty list.
pub(in crate::tailscale) fn elements<'a, T: Deserialize<'a>>(
    what: &'static str,
    list: Option<&'a RawValue>,
) -> Vec<T> {
    let Some(list) = list else { return Vec::new() };
    let raw: Vec<Option<&'a RawValue>> = match serde_json::from_str(list.get()) {
        Ok(raw) => raw,
        Err(error) => {
            tracing::warn!(what, %error, "a list of the control server is none");
            return Vec::new();
        }
    };
    raw.into_iter().flatten().filter_map(|raw| element(what, raw)).collect()
}

/// A value that can be read; otherwise it is named in the log.
pub(in crate::tailscale) fn element<'a, T: Deserialize<'a>>(
    what: &'static str,
    raw: &'a RawValue,
) -> Option<T> {
    match serde_json::from_str(raw.get()) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(what, %error, "a part of the control server's message cannot be read and is left out");
            None
        }
    }
}
