//! Classes of OpenVPN: what a profile and its keys can have wrong.

use super::{Blame, Class, class};
use crate::Exit;

pub(super) const CLASSES: &[Class] = &[
    class(
        "ovpn.config.parse",
        Exit::Usage,
        Blame::User,
        "{file|the OpenVPN profile} cannot be read",
        &[
            "Correct the line that is shown; `adit config check` reads the file without connecting.",
        ],
        "A profile has one option per line, with its parameters behind it, and blocks like <ca> … </ca>. The message names the file, the line and the column.",
    ),
    class(
        "ovpn.config.unknown",
        Exit::Ok,
        Blame::User,
        "{option|an option} is not known and was left out",
        &[
            "Correct its spelling, or delete the line.",
            "If only some clients know it, name it in `ignore-unknown-option` or write `setenv opt` before it.",
        ],
        "OpenVPN's own client refuses unknown options. Profiles of vendors hold options of their own, so adit leaves them out and says so; with --strict they are an error.",
    )
    .warning(),
    class(
        "ovpn.config.odd",
        Exit::Ok,
        Blame::User,
        "a line of the profile is written in an odd way; it was understood",
        &["Write it as the message says, so that every client understands it."],
        "Other encodings than UTF-8, typographic quotes, lone backslashes and paths of another machine are understood where that is safe, and reported.",
    )
    .warning(),
    class(
        "ovpn.config.ignored",
        Exit::Ok,
        Blame::User,
        "these options of the profile are not carried out",
        &["Nothing to do, if what they did is not needed; otherwise do it in your own script."],
        "Scripts and plugins are never run, log files are never written and the machine's own routes are never touched by options of a profile. `adit explain --options openvpn` says what becomes of each option.",
    )
    .warning(),
    class(
        "ovpn.config.unsupported",
        Exit::Usage,
        Blame::User,
        "{option|an option} asks for what adit does not do",
        &[
            "Remove the option if the server does not need it.",
            "Ask for a profile without it; `adit explain --options openvpn` lists what is possible.",
        ],
        "Some options change what is on the wire (tap devices, static keys, old ciphers), so leaving them out would only lead to a connection that fails in a way that is harder to understand.",
    ),
    class(
        "ovpn.config.missing",
        Exit::Usage,
        Blame::User,
        "{option|an option} is missing in the profile",
        &["Add it, or get the profile again from the server's administrator."],
        "Without a server to call and a way to check it, no connection can be made.",
    ),
    class(
        "ovpn.config.placeholder",
        Exit::Usage,
        Blame::User,
        "{value|a value} in the profile was never filled in",
        &["Put the real value in its place, as the vendor's instructions say."],
        "Exported profiles of some vendors hold placeholders like YOUR_SERVER_IP that the user has to replace.",
    ),
    class(
        "ovpn.file.missing",
        Exit::Usage,
        Blame::User,
        "{file|a file} that the profile names cannot be read",
        &[
            "Put the file next to the profile, or name its path.",
            "Or put its content into the profile: <ca> … </ca>, <cert> … </cert>, <key> … </key>.",
        ],
        "File names in a profile are relative to the profile's directory, or to what its option `cd` says. Profiles that come as an archive need all files of the archive.",
    ),
    class(
        "ovpn.creds.missing",
        Exit::CredentialMissing,
        Blame::User,
        "the server wants user and password, and none were given",
        &[
            "Give a file with two lines, user and password: --auth-user-pass file:PATH (or env:NAME, fd:N, command:…, -).",
        ],
        "The profile has `auth-user-pass` without a file, which makes OpenVPN's own client ask at the terminal.",
    ),
    class(
        "ovpn.key.passphrase",
        Exit::CredentialMissing,
        Blame::User,
        "the private key is encrypted, and {why|its password was not given}",
        &[
            "Give it: --key-pass file:PATH (or env:NAME, fd:N, command:…, -).",
            "Or decrypt the key once: openssl pkey -in client.key -out plain.key, and protect that file.",
        ],
        "The key of the profile is an encrypted PEM or a PKCS#12 archive. Nothing was sent to the server.",
    ),
    class(
        "ovpn.key.format",
        Exit::Usage,
        Blame::User,
        "{file|a key or certificate} cannot be read",
        &[
            "Get the file again; it may have been cut or pasted in part.",
            "`openssl pkey -in FILE -noout` and `openssl x509 -in FILE -noout` say whether it is whole.",
        ],
        "Certificates and keys are PEM blocks, or a PKCS#12 archive. The message says which one is damaged and how.",
    ),
    class(
        "ovpn.key.mismatch",
        Exit::Usage,
        Blame::User,
        "the private key does not belong to the certificate",
        &[
            "Use the certificate and the key of the same client.",
            "Get the profile again from the server's administrator.",
        ],
        "The public key in the certificate is not that of the private key, so no server can accept the pair. This is found out before anything is sent.",
    ),
    class(
        "ovpn.key.unsupported",
        Exit::Usage,
        Blame::User,
        "{what|the certificate or key} is of a kind that adit cannot use",
        &[
            "Have a new certificate issued: RSA with 2048 to 4096 bits, ECDSA P-256 or P-384, or Ed25519, signed with SHA-256.",
        ],
        "RSA keys below 2048 bits, signatures with MD5 and the curves P-521 and secp256k1 are not in adit's cryptographic library. OpenVPN servers of every age accept RSA 2048 and P-256.",
    ),
    class(
        "ovpn.server.unchecked",
        Exit::Ok,
        Blame::User,
        "the profile does not check that the server is a server",
        &[
            "Add `remote-cert-tls server`, if the server's certificate allows it; or `verify-x509-name NAME name`.",
        ],
        "Any certificate of the same authority is believed, that of another client too: whoever has one can play the server. `remote-cert-tls`, `remote-cert-eku`, `ns-cert-type`, `verify-x509-name` and `peer-fingerprint` prevent it.",
    )
    .warning(),
    class(
        "ovpn.cipher.weak",
        Exit::Ok,
        Blame::User,
        "{cipher|a cipher or digest} of the profile is weak",
        &[
            "Let the server offer AES-256-GCM; a server of 2.4 or later negotiates it by itself.",
        ],
        "It still works, and it is weaker than what servers offer today.",
    )
    .warning(),
];
