//! The command line as people see it: whole outputs, exit codes, and secrets that stay secret.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The beginning of a private key that must be seen nowhere.
const CANARY: &str = "yAnz5TF+lXXJte14tji3zlMNq";
const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

/// A directory of its own, removed at the end.
struct Room(PathBuf);

impl Room {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("adit-cli-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, mode: u32, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// The binary in this directory, with an environment of nothing.
    fn adit(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command.args(arguments).current_dir(&self.0).env_clear();
        command.env("XDG_CONFIG_HOME", &self.0).env("XDG_RUNTIME_DIR", &self.0).env("COLUMNS", "100");
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Everything that a command printed, and its exit code.
fn transcript(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(!stdout.contains(CANARY) && !stderr.contains(CANARY), "a secret is shown:\n{stdout}{stderr}");
    // What the stage `env` sees is another thing on every machine.
    let stderr: String = stderr.split_inclusive('\n').filter(|line| !line.contains(" env  ")).collect();
    let code = output.status.code().map_or("signal".to_owned(), |code| code.to_string());
    format!("exit: {code}\n--- stdout\n{stdout}--- stderr\n{stderr}")
}

fn lab(key: &str) -> String {
    format!(
        "[Interface]\n{key}Address = 10.8.0.2/24\nPostUp = iptables -A FORWARD -j ACCEPT\n\
         [Peer]\nPublicKey = {PEER}\nEndpoint = vpn.example.com:51820\nAllowedIPs = 10.8.0.0/24\n"
    )
}

fn with_key() -> String {
    lab(&format!("PrivateKey = {KEY}\n"))
}

#[test]
fn every_command_has_its_help_page() {
    let room = Room::new("help");
    let mut paths = vec![Vec::new()];
    let mut definition = adit::cli::definition();
    definition.build();
    collect(&definition, &mut Vec::new(), &mut paths);
    for path in paths {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let name = if path.is_empty() { "help".to_owned() } else { format!("help-{}", path.join("-")) };
        insta::assert_snapshot!(name, transcript(&mut room.adit(&arguments)));
    }
}

fn collect(command: &clap::Command, prefix: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        prefix.push(sub.get_name().to_owned());
        paths.push(prefix.clone());
        collect(sub, prefix, paths);
        prefix.pop();
    }
}

/// An OpenVPN profile after the shape of PiVPN's, with user and password beside its encrypted key.
fn profile() -> String {
    let key = |name: &str| {
        let path = format!("{}/../adit-providers/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"));
        fs::read_to_string(path).unwrap()
    };
    format!(
        "client\nremote vpn.example.com 1194 udp\nremote vpn.example.com 443 tcp\nremote-cert-tls server\nauth SHA256\n\
         auth-user-pass\nup /etc/up.sh\n<ca>\n{}</ca>\n<cert>\n{}</cert>\n<key>\n{}</key>\n<tls-crypt>\n{}</tls-crypt>\n",
        key("ca.crt"),
        key("client.crt"),
        key("pbes2-aes256.key"),
        key("ta.key")
    )
}

#[test]
fn config_check_explains_an_openvpn_profile_and_what_it_needs() {
    let room = Room::new("openvpn");
    room.file("corp.ovpn", 0o600, &profile());
    room.file("login", 0o600, "alice\ncanary-7b1e\n");
    room.file("pass", 0o600, "test-password\n");
    room.file("wrong", 0o600, "canary-wrong\n");
    let check = |more: &[&str]| {
        let arguments: Vec<&str> = ["config", "check", "corp.ovpn"].iter().chain(more).copied().collect();
        transcript(&mut room.adit(&arguments))
    };
    insta::assert_snapshot!("config-check-openvpn", check(&[]));
    insta::assert_snapshot!("config-check-openvpn-json", check(&["--json"]));
    let whole = check(&["--auth-user-pass", "file:login", "--key-pass", "file:pass"]);
    assert!(
        whole.starts_with("exit: 0\n") && !whole.contains("needs") && !whole.contains("canary"),
        "{whole}"
    );
    let wrong = check(&["--auth-user-pass", "file:login", "--key-pass", "file:wrong"]);
    assert!(wrong.starts_with("exit: 11\n") && wrong.contains("the password does not open it"), "{wrong}");
    assert!(!wrong.contains("canary"), "{wrong}");
    let twice = check(&["--challenge", "file:pass", "--totp", "file:pass"]);
    assert!(twice.starts_with("exit: 2\n"), "{twice}");
    let strict = check(&["--strict"]);
    assert!(strict.starts_with("exit: 2\n") && strict.contains("scripts are never run"), "{strict}");
}

#[test]
fn an_adit_toml_names_a_profile_and_where_its_passwords_come_from() {
    let room = Room::new("openvpn-toml");
    room.file("corp.ovpn", 0o600, &profile());
    room.file(
        "adit.toml",
        0o600,
        "version = 1\n[profile.corp]\nprovider = \"openvpn\"\nconfig = \"corp.ovpn\"\n\
         auth = { user_pass = \"file:login\", key_pass = \"env:KEY_PASS\", totp = \"file:totp\" }\n",
    );
    let show = |more: &[&str]| {
        let arguments: Vec<&str> = ["config", "show", "--origin"].iter().chain(more).copied().collect();
        transcript(&mut room.adit(&arguments))
    };
    let said = show(&[]);
    let line = |key: &str, said: &str| {
        let line = said.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("auth.user_pass", &said), "auth.user_pass file:login # adit.toml:5");
    assert_eq!(line("auth.totp", &said), "auth.totp file:totp # adit.toml:5");
    // One way to answer on the command line takes the place of another in the file.
    let over = show(&["--challenge-cmd", "echo 1"]);
    assert_eq!(line("auth.challenge_cmd", &over), "auth.challenge_cmd echo 1 # --challenge-cmd");
    assert_eq!(line("auth.totp", &over), "auth.totp - # default");

    room.file(
        "adit.toml",
        0o600,
        "version = 1\n[profile.corp]\nprovider = \"wireguard\"\nconfig = \"corp.ovpn\"\n",
    );
    let other = transcript(&mut room.adit(&["config", "check"]));
    assert!(other.contains("no file for the provider wireguard"), "{other}");
    room.file("adit.toml", 0o600, "version = 1\n[profile.corp]\nconfig = \"corp.ovpn\"\nuser_pas = \"-\"\n");
    let misspelt = transcript(&mut room.adit(&["config", "check"]));
    assert!(misspelt.contains("write `user_pass` in [profile.corp.auth]"), "{misspelt}");
}

#[test]
fn explain_lists_what_becomes_of_each_option() {
    let room = Room::new("options");
    let said = transcript(&mut room.adit(&["explain", "--options", "openvpn"]));
    assert!(said.starts_with("exit: 0\n"));
    let row = said.lines().find(|line| line.trim_start().starts_with("plugin ")).unwrap();
    assert!(row.contains("left out") && row.contains("plugins are never loaded"), "{row}");
    let json = transcript(&mut room.adit(&["explain", "--options", "openvpn", "--json"]));
    assert!(json.contains("\"treatment\": \"refused\""));
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_to_do() {
    let room = Room::new("usage");
    room.file("lab.conf", 0o600, &with_key());
    room.file("open.conf", 0o644, &with_key());
    room.file("corp.ovpn", 0o600, "client\ndev tun\nremote vpn.example.com 1194\n");
    room.file(
        "bad.toml",
        0o600,
        "version = 1\ndefault = \"stagin\"\n\n[profile.staging]\nconfig = \"lab.conf\"\nmode = \"fast\"\ntargts = []\n\
         auth = { private_key = \"yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\" }\n\n[profile.staging.verify]\ntimeout = 60\n",
    );
    let cases: [(&str, &[&str]); 14] = [
        ("no-command", &[]),
        ("unknown-command", &["conect"]),
        ("unknown-flag", &["up", "--targt", "x"]),
        ("bad-duration", &["up", "--timeout", "60"]),
        ("secret-in-argv", &["up", "--private-key", KEY]),
        ("secret-in-argv-equals", &["up", "--config=lab.conf", &format!("--private-key={KEY}")]),
        ("no-configuration", &["config", "check"]),
        ("missing-file", &["config", "check", "nowhere.conf"]),
        ("exposed-file", &["exec", "--config", "open.conf", "--", "true"]),
        ("incomplete-profile", &["config", "check", "corp.ovpn"]),
        ("bad-toml", &["config", "check", "bad.toml"]),
        ("whois-without-a-tailnet", &["whois", "10.8.0.1", "--config", "lab.conf"]),
        ("path-without-a-tailnet", &["ping", "--path", "10.8.0.1", "--config", "lab.conf"]),
        ("profile-of-a-file", &["config", "check", "lab.conf", "--profile", "x"]),
    ];
    for (name, arguments) in cases {
        let said = transcript(&mut room.adit(arguments));
        assert!(said.starts_with("exit: 2\n"), "{name}: {said}");
        insta::with_settings!({ filters => vec![(r"/tmp/adit-cli-\d+-usage", "[HOME]")] }, {
            insta::assert_snapshot!(name, said);
        });
    }
}

#[test]
fn configuration_is_checked_shown_and_written() {
    let room = Room::new("config");
    room.file("lab.conf", 0o600, &with_key());
    insta::assert_snapshot!("config-check", transcript(&mut room.adit(&["config", "check", "lab.conf"])));
    insta::assert_snapshot!(
        "config-check-json",
        transcript(&mut room.adit(&["config", "check", "lab.conf", "--json", "--strict"]))
    );
    insta::assert_snapshot!("config-init", transcript(&mut room.adit(&["config", "init"])));
    assert!(transcript(&mut room.adit(&["config", "init"])).starts_with("exit: 2\n"), "it is not replaced");
    let mut show = room.adit(&["config", "show", "--origin", "--target", "tcp://db.internal:5432,postgres"]);
    show.env("ADIT_TIMEOUT", "10s").env("ADIT_PRIVATE_KEY", "file:key");
    insta::assert_snapshot!("config-show", transcript(&mut show));
}

#[test]
fn a_key_of_the_environment_is_used_and_a_literal_there_is_refused_unseen() {
    let room = Room::new("env");
    room.file("bare.conf", 0o644, &lab(""));
    let mut check = room.adit(&["config", "check", "bare.conf", "--private-key", "env:WG_KEY"]);
    let said = transcript(check.env("WG_KEY", KEY));
    assert!(said.starts_with("exit: 0\n"), "without a key inside, others may read the file: {said}");
    let said = transcript(room.adit(&["config", "check", "bare.conf"]).env("ADIT_PRIVATE_KEY", KEY));
    assert!(said.starts_with("exit: 2\n") && said.contains("credential.argv"), "{said}");
    let mut check = room.adit(&["config", "check", "bare.conf", "--private-key", "env:WG_KEY"]);
    let said = transcript(check.env("WG_KEY", "${{ secrets.WG_KEY }}"));
    assert!(said.starts_with("exit: 11\n") && said.contains("credential.placeholder"), "{said}");
}

#[test]
fn variables_of_gluetun_are_enough_and_their_key_is_unseen() {
    let room = Room::new("gluetun");
    let described = [
        ("WIREGUARD_PRIVATE_KEY", KEY),
        ("WIREGUARD_PUBLIC_KEY", PEER),
        ("WIREGUARD_ADDRESSES", "10.64.222.21/32"),
        ("WIREGUARD_ENDPOINT_IP", "192.0.2.1"),
    ];
    let said = transcript(room.adit(&["config", "check"]).envs(described));
    assert!(said.starts_with("exit: 0\n") && said.contains("profile wireguard"), "{said}");
    let said = transcript(room.adit(&["config", "show", "--origin"]).envs(described));
    assert!(said.contains("env:WIREGUARD_PRIVATE_KEY  # $WIREGUARD_PRIVATE_KEY"), "{said}");
    room.file("adit.toml", 0o644, "version = 1\n[profile.own]\nconfig = \"own.conf\"\n");
    let said = transcript(room.adit(&["config", "show"]).envs(described));
    assert!(said.contains("own.conf") && !said.contains("WIREGUARD"), "a file of adit's own wins: {said}");
}

#[test]
fn a_configuration_may_be_a_pipe() {
    let room = Room::new("pipe");
    let text = room.file("lab.conf", 0o600, &with_key());
    let mut check = room.adit(&["config", "check", "-"]);
    let said = transcript(check.stdin(fs::File::open(text).unwrap()));
    assert!(said.starts_with("exit: 0\n"), "{said}");
}

#[test]
fn a_consumed_key_is_nowhere_once_the_handshake_begins() {
    let room = Room::new("canary");
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let endpoint = server.local_addr().unwrap().to_string();
    room.file("bare.conf", 0o600, &lab("").replace("vpn.example.com:51820", &endpoint));
    let file = room.file("key", 0o600, KEY);
    for source in ["env:WG_KEY", "file:key"] {
        let arguments =
            ["exec", "-vvv", "--config", "bare.conf", "--consume", "--private-key", source, "--", "true"];
        let mut command = room.adit(&arguments);
        command.env("WG_KEY", if source.starts_with("env") { KEY } else { "" });
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The initiation is on its way: every secret has been read.
        let mut datagram = [0; 2048];
        let (length, _) = server.recv_from(&mut datagram).unwrap();
        assert_eq!((length, datagram[0]), (148, 1), "a handshake initiation");
        for name in ["cmdline", "environ"] {
            // A process that cannot be dumped shows its environment to root alone.
            let seen = fs::read(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
            assert!(!contains(&seen, CANARY), "/proc/PID/{name} shows the key ({source})");
        }
        assert!(source.starts_with("env") || !file.exists(), "the file is gone");
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(!output.stderr.is_empty(), "-vvv says something");
        assert!(!contains(&output.stdout, CANARY) && !contains(&output.stderr, CANARY), "{source}");
        // What belongs to an earlier process must not be taken for the next one's.
        drain(&server);
    }
}

fn drain(server: &UdpSocket) {
    server.set_nonblocking(true).unwrap();
    while server.recv_from(&mut [0; 2048]).is_ok() {}
    server.set_nonblocking(false).unwrap();
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn man_pages_and_completions_come_for_every_command() {
    let room = Room::new("man");
    assert!(transcript(&mut room.adit(&["man", "pages"])).starts_with("exit: 0\n"));
    let pages = |name: &str| Path::new(&room.0).join("pages").join(name);
    for name in ["adit.1", "adit-exec.1", "adit-config-check.1"] {
        assert!(fs::read_to_string(pages(name)).unwrap().contains(".SH NAME"), "{name}");
    }
    assert!(!pages("adit-demo-client.1").exists(), "hidden commands have no page");
    for shell in ["bash", "zsh", "fish"] {
        let said = transcript(&mut room.adit(&["completions", shell]));
        assert!(said.starts_with("exit: 0\n") && said.contains("exec"), "{shell}");
    }
}

#[test]
fn whoever_stops_reading_the_result_is_told_nothing() {
    let room = Room::new("unread");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = room.adit(&["explain", "deadline"]).stdout(writer).output().unwrap();
    assert_eq!((run.status.code(), String::from_utf8_lossy(&run.stderr).as_ref()), (Some(141), ""));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = room.adit(&["explain", "deadline"]).stdout(full).output().unwrap();
    assert_eq!(run.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&run.stderr).contains("[env.stdout]"));
}
