//! Secrets never stand in argv, where every process of the machine can read them (`/proc/PID/cmdline`).

use std::ffi::OsString;

use crate::{Failure, failure};

/// Refuses arguments that look like a key. What follows `--` belongs to the user's program.
pub(super) fn refuse(arguments: &[OsString]) -> Result<(), Failure> {
    for (position, argument) in arguments.iter().enumerate().skip(1) {
        let Some(text) = argument.to_str() else { continue };
        if text == "--" {
            return Ok(());
        }
        let value = text.split_once('=').filter(|_| text.starts_with("--")).map_or(text, |(_, value)| value);
        if let Some(kind) = looks_like(value) {
            return Err(failure::of(
                "credential.argv",
                format!(
                    "argument {position} looks like {kind}; other users can read the arguments of a process"
                ),
            )
            .with_fix(vec![
                "give a source in its place: file:PATH, fd:3, env:NAME, command:…, or - for stdin".to_owned(),
                "treat this secret as known to others, and make a new one".to_owned(),
            ]));
        }
    }
    Ok(())
}

fn looks_like(value: &str) -> Option<&'static str> {
    let bytes = value.as_bytes();
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || *b == b'+' || *b == b'/';
    if value.starts_with("tskey-") {
        Some("a Tailscale key")
    } else if bytes.len() == 44 && bytes[43] == b'=' && bytes[..43].iter().all(base64) {
        Some("a WireGuard key")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str]) -> Result<(), Failure> {
        refuse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_key_in_the_arguments_is_refused_and_not_repeated() {
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        for arguments in [vec!["adit", "up", key], vec!["adit", "up", &format!("--private-key={key}")]] {
            let failure = check(&arguments).unwrap_err();
            assert_eq!((failure.exit, failure.class.as_str()), (crate::Exit::Usage, "credential.argv"));
            assert!(!format!("{failure:?}").contains(key));
        }
        assert!(check(&["adit", "up", "--auth-key", "tskey-auth-abc"]).is_err());
    }

    #[test]
    fn the_program_of_exec_may_be_given_anything() {
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        assert!(check(&["adit", "exec", "--", "wg", "set", key]).is_ok());
    }
}
