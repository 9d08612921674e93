//! How servers ask who we are: passwords, questions, approvals, tokens.

use super::{PEER, is_kept_out, reaches};
use crate::support::{Lab, Part, Server};

/// Checks user and password of the file that the server writes; counts how often it is asked.
const CHECK: &str = r#"echo "$1" >> asked
    u=$(sed -n 1p "$1"); p=$(sed -n 2p "$1"); [ "$u" = alice ] && [ "$p" = secret ]"#;
const LOGIN: &str = "<auth-user-pass>\nalice\nsecret\n</auth-user-pass>";
const WRONG: &str = "<auth-user-pass>\nalice\nwrong\n</auth-user-pass>";

/// A laboratory whose server asks a script for every login, and that server.
fn lab(test: &str, script: &str) -> Option<(Lab, Server)> {
    let lab = Lab::build(test, &[Part::OpenVpn, Part::Names])?;
    let script = lab.script("check", script);
    let verify = format!("script-security 3\nauth-user-pass-verify {} via-file", script.display());
    Some((lab, Server::new().server(&verify)))
}

/// How often the server's script was asked.
fn asked(lab: &Lab) -> usize {
    std::fs::read_to_string(lab.dir.path().join("asked")).unwrap_or_default().lines().count()
}

#[test]
fn a_password_opens_the_network_and_a_wrong_one_is_sent_once() {
    let Some((mut lab, server)) = lab("openvpn_password", CHECK) else { return };
    lab.start_openvpn(&server);
    reaches(&lab, &server.clone().profile(LOGIN), &[], PEER);
    // The same from a file that the command names.
    let file = lab.write("login", "alice\nsecret\n");
    let source = format!("file:{}", file.display());
    reaches(&lab, &server.clone().profile("auth-user-pass"), &["--auth-user-pass", &source], PEER);

    let before = asked(&lab);
    is_kept_out(&lab, &server.profile(WRONG), &[], "ovpn.auth.failed");
    assert_eq!(asked(&lab) - before, 1, "a wrong password is tried once");
}

#[test]
fn no_certificate_is_needed_where_the_server_asks_for_none() {
    let Some((mut lab, server)) = lab("openvpn_no_certificate", CHECK) else { return };
    let server = server.server("verify-client-cert none\nusername-as-common-name");
    lab.start_openvpn(&server);
    let server = server.client((String::new(), String::new()));
    reaches(&lab, &server.clone().profile(LOGIN), &[], PEER);
    // Missing is not wrong: nothing is sent.
    let before = asked(&lab);
    is_kept_out(&lab, &server.profile("auth-user-pass"), &[], "ovpn.creds.missing");
    assert_eq!(asked(&lab), before);
}

#[test]
fn a_server_may_take_its_time() {
    // The script answers later, in a file.
    let deferred = r#"u=$(sed -n 1p "$1"); (sleep 2; [ "$u" = alice ] && echo 1 || echo 0) > "$auth_control_file" 2>/dev/null &
        exit 2"#;
    let Some((mut lab, server)) = lab("openvpn_deferred", deferred) else { return };
    lab.start_openvpn(&server);
    reaches(&lab, &server.profile(LOGIN), &[], PEER);
}

#[test]
fn a_token_takes_the_place_of_the_password_in_renegotiations() {
    let Some((mut lab, server)) = lab("openvpn_token", CHECK) else { return };
    let server = server.server("auth-gen-token 3600 20\nhand-window 10\nreneg-bytes 300000");
    lab.start_openvpn(&server);
    super::reaches_until(&mut lab, &server.profile(LOGIN), 3, "Control Channel: TLSv1.3");
    assert_eq!(asked(&lab), 1, "the token was good enough for every renegotiation");
}

#[test]
fn a_static_challenge_is_answered_in_both_forms() {
    let script = r#"p=$(sed -n 2p "$1")
        [ "$p" = "SCRV1:$(printf secret | base64):$(printf 424242 | base64)" ] || [ "$p" = secret424242 ]"#;
    let Some((mut lab, server)) = lab("openvpn_static_challenge", script) else { return };
    lab.start_openvpn(&server);
    let code = lab.write("code", "424242\n");
    let source = format!("file:{}", code.display());
    for option in ["static-challenge \"Your code\" 1", "static-challenge \"Your code\" 0 concat"] {
        let server = server.clone().profile(LOGIN).profile(option);
        reaches(&lab, &server, &["--challenge", &source], PEER);
    }
    let server = server.profile(LOGIN).profile("static-challenge \"Your code\" 1");
    let outcome = is_kept_out(&lab, &server, &[], "ovpn.auth.challenge");
    assert!(outcome.stderr.contains("Your code"), "{outcome}");
}

#[test]
fn a_dynamic_challenge_is_answered_in_a_second_connection() {
    let script = r#"p=$(sed -n 2p "$1")
        case "$p" in
            secret) printf 'CRV1:R,E:STATE77:%s:Please enter' "$(printf alice | base64)" > "$auth_failed_reason_file"; exit 1 ;;
            CRV1::STATE77::424242) exit 0 ;;
            *) exit 1 ;;
        esac"#;
    let Some((mut lab, server)) = lab("openvpn_dynamic_challenge", script) else { return };
    lab.start_openvpn(&server);
    let server = server.profile(LOGIN);
    reaches(
        &lab,
        &server,
        &["--challenge-cmd", "[ \"$ADIT_QUESTION\" = 'Please enter' ] && echo 424242"],
        PEER,
    );
    is_kept_out(&lab, &server, &["--challenge-cmd", "echo 1"], "ovpn.auth.failed");
}

#[test]
fn a_server_that_cannot_tell_yet_is_asked_again() {
    let script = r#"[ -e asked ] && exit 0
        echo 1 > asked
        printf 'TEMP[backoff 2,advance no]:the directory sleeps' > "$auth_failed_reason_file"; exit 1"#;
    let Some((mut lab, server)) = lab("openvpn_temporary", script) else { return };
    lab.start_openvpn(&server);
    reaches(&lab, &server.profile(LOGIN), &[], PEER);
    assert_eq!(asked(&lab), 1, "refused once, then let in");
}

#[test]
fn an_approval_in_a_browser_is_waited_for_and_its_page_is_shown() {
    let script = r#"printf '30\nwebauth\nWEB_AUTH::https://login.example.test/s/1\n' > "$auth_pending_file"
        (sleep 2; echo 1 > "$auth_control_file") &
        exit 2"#;
    let Some((mut lab, server)) = lab("openvpn_web", script) else { return };
    lab.start_openvpn(&server);
    let outcome = reaches(&lab, &server.profile(LOGIN), &[], PEER);
    assert!(outcome.stderr.contains("https://login.example.test/s/1"), "{outcome}");
}

#[test]
fn an_approval_that_never_comes_is_told_with_its_page() {
    let script =
        r#"printf '30\nopenurl\nOPEN_URL:https://login.example.test/s/2\n' > "$auth_pending_file"; exit 2"#;
    let Some((mut lab, server)) = lab("openvpn_web_never", script) else { return };
    lab.start_openvpn(&server);
    let outcome = is_kept_out(&lab, &server.profile(LOGIN), &["--timeout", "5s"], "ovpn.auth.pending");
    assert!(outcome.stderr.contains("https://login.example.test/s/2"), "{outcome}");
}

#[test]
fn a_question_within_the_connection_is_answered() {
    let script = r#"printf '30\ncrtext\nCR_TEXT:E,R:Enter the code\n' > "$auth_pending_file"
        echo "$auth_control_file" > control; exit 2"#;
    let Some((mut lab, server)) = lab("openvpn_crtext", script) else { return };
    let answer = lab.script("answer", r#"[ "$(base64 -d < "$1")" = 31337 ] && echo 1 > "$auth_control_file" || echo 0 > "$auth_control_file""#);
    let server = server.server(&format!("client-crresponse {}", answer.display()));
    lab.start_openvpn(&server);
    reaches(&lab, &server.profile(LOGIN), &["--challenge-cmd", "echo 31337"], PEER);
}
