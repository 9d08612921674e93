//! What servers say instead of a configuration.

use adit_openvpn::{Command, Credentials};
use adit_sim::openvpn::{Act, Script};
use adit_tunnel::{Event, Prompt};

use super::lab::{Kind, Lab, SideCommand, configs, millis, secs};

/// A lab whose server does one script after the other, one a connection; the client is alice with the password secret.
fn lab(scripts: Vec<Script>) -> Lab {
    let (mut client, mut server) = configs(Kind::Crypt);
    client.credentials = Some(Credentials { username: "alice".into(), password: "secret".to_owned().into() });
    server.scripts = scripts;
    Lab::with(0, (client, server))
}

/// The prompts that the client has made.
fn prompts(lab: &Lab) -> Vec<Prompt> {
    let events = lab.world.events(lab.client).iter();
    let prompt = |(_, event): &(_, Event<_>)| match event {
        Event::Prompt(prompt) => Some(prompt.clone()),
        _ => None,
    };
    events.filter_map(prompt).collect()
}

/// Answers the last question.
fn answer(lab: &mut Lab, text: &str) {
    let Some(Prompt::Answer { id, .. }) = prompts(lab).pop() else { panic!("no question: {:?}", lab.said()) };
    let answer = Command::Answer { id, text: text.to_owned() };
    lab.world.command(lab.client, SideCommand::Client(answer));
}

#[test]
fn a_refused_password_is_sent_once() {
    for words in ["AUTH_FAILED", "AUTH_FAILED,account locked"] {
        let mut lab = lab(vec![Script::say(words), Script::accept()]);
        lab.world.run_for(secs(300));
        assert_eq!(lab.said(), ["ovpn.auth.failed"]);
        assert_eq!(lab.logins(), [(0, "alice".to_owned(), "secret".to_owned())]);
    }
}

#[test]
fn a_temporary_refusal_is_followed_by_the_pause_that_it_names() {
    let mut lab = lab(vec![Script::say("AUTH_FAILED,TEMP[backoff 7,advance no]:busy"), Script::accept()]);
    lab.world.run_for(secs(2));
    // A change of the network hurries everything else.
    lab.world.command(lab.client, SideCommand::Client(Command::NetworkChanged));
    lab.world.run_for(secs(4));
    assert_eq!(lab.logins().len(), 1);
    assert!(lab.up_within(secs(5)), "{:?}", lab.said());
}

#[test]
fn a_dynamic_challenge_is_asked_and_answered_in_a_second_connection() {
    let words = "AUTH_FAILED,CRV1:R,E:a:state77:YWxpY2U=:Please enter: now";
    let words = words.replace("a:state77", "state77");
    let mut lab = lab(vec![Script::say(&words), Script::accept()]);
    lab.world.run_for(secs(2));
    let asked = prompts(&lab);
    assert!(
        matches!(asked.as_slice(), [Prompt::Answer { text, echo: true, .. }] if text == "Please enter: now"),
        "{asked:?}"
    );
    answer(&mut lab, "424242");
    assert!(lab.up_within(secs(10)), "{:?}", lab.said());
    assert_eq!(lab.logins()[1], (0, "alice".to_owned(), "CRV1::state77::424242".to_owned()));
    assert_eq!(lab.said(), ["prompt", "up"], "a question is no failure");
}

#[test]
fn a_question_that_nobody_can_answer_ends_the_attempts_with_the_reason() {
    let mut lab =
        lab(vec![Script::say("AUTH_FAILED,CRV1:R,E:state77:YWxpY2U=:Please enter"), Script::accept()]);
    lab.world.run_for(secs(2));
    let Some(Prompt::Answer { id, .. }) = prompts(&lab).pop() else {
        panic!("no question: {:?}", lab.said())
    };
    let decline =
        |id| SideCommand::Client(Command::Decline { id, why: "the command ended with 3".to_owned() });
    let before = lab.said().len();
    lab.world.command(lab.client, decline(id + 1));
    assert_eq!(lab.said().len(), before, "another question was meant: {:?}", lab.said());
    lab.world.command(lab.client, decline(id));
    lab.world.run_for(secs(60));
    assert_eq!(lab.said().len(), before + 1);
    assert_eq!(lab.said().last().map(ToString::to_string).as_deref(), Some("ovpn.auth.challenge"));
    assert_eq!(lab.logins().len(), 1, "nothing was sent without the answer");
}

#[test]
fn approvals_and_questions_within_the_connection_are_told_and_answered() {
    let script = Script::say("AUTH_PENDING,timeout 60")
        .then(millis(10), Act::Say("INFO_PRE,WEB_AUTH::https://login.example.test/1".to_owned()))
        .then(secs(40), Act::Push);
    let mut lab = lab(vec![script]);
    assert!(lab.up_within(secs(60)), "{:?}", lab.said());
    let asked = prompts(&lab);
    assert!(
        matches!(asked.as_slice(), [Prompt::Open { url, .. }] if url == "https://login.example.test/1"),
        "{asked:?}"
    );

    let script = Script::say("AUTH_PENDING,timeout 60")
        .then(millis(10), Act::Say("INFO_PRE,CR_TEXT:R,E:Your code".to_owned()))
        .then(secs(5), Act::Push);
    let mut lab = self::lab(vec![script]);
    lab.world.run_for(secs(1));
    answer(&mut lab, "1234");
    assert!(lab.up_within(secs(10)), "{:?}", lab.said());
    assert!(lab.texts().iter().any(|text| text == "CR_RESPONSE,MTIzNA=="), "{:?}", lab.texts());
}

#[test]
fn an_address_that_is_no_page_of_https_is_not_shown() {
    let script = Script::say("AUTH_PENDING,timeout 60")
        .then(millis(10), Act::Say("INFO_PRE,WEB_AUTH::file:///etc/passwd".to_owned()))
        .then(millis(20), Act::Say("INFO_PRE,OPEN_URL:http://plain.example.test/".to_owned()))
        .then(millis(30), Act::Say("INFO_PRE,OPEN_URL:https://x/\x1b[2J".to_owned()));
    let mut lab = lab(vec![script]);
    lab.world.run_for(secs(5));
    for prompt in prompts(&lab) {
        let Prompt::Open { url, .. } = prompt else { continue };
        assert!(url.starts_with("https://") && !url.contains('\x1b'), "{url}");
    }
}

#[test]
fn a_token_takes_the_place_of_the_password_and_the_password_is_sent_once_when_it_is_refused() {
    let (mut client, mut server) = configs(Kind::Crypt);
    client.credentials = Some(Credentials { username: "alice".into(), password: "secret".to_owned().into() });
    server.push.push("auth-token SESS_ID_1".to_owned());
    server.scripts = vec![Script::accept(), Script::say("AUTH_FAILED,SESSION:expired"), Script::accept()];
    let mut lab = Lab::with(0, (client, server));
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    lab.passes_after(secs(1));
    lab.act(Act::Renegotiate);
    lab.world.run_for(secs(2));
    // A new token comes after a renegotiation, without an address.
    lab.act(Act::Say("PUSH_REPLY,auth-token SESS_ID_2".to_owned()));
    lab.world.run_for(secs(2));
    lab.act(Act::Renegotiate);
    lab.world.run_for(secs(2));
    let passwords: Vec<String> = lab.logins().into_iter().map(|(_, _, password)| password).collect();
    assert_eq!(passwords, ["secret", "SESS_ID_1", "SESS_ID_2"]);
    assert_eq!(lab.said(), ["up"], "a token is no new configuration");
    assert!(lab.passes_after(secs(1)).is_some());

    // The server comes back and knows no token; then it accepts the password.
    lab.act(Act::Say("RESTART,[P]back soon".to_owned()));
    assert!(lab.up_within(secs(20)), "{:?}", lab.said());
    let passwords: Vec<String> = lab.logins().into_iter().map(|(_, _, password)| password).collect();
    assert_eq!(passwords[3..], ["SESS_ID_2", "secret"]);
}

#[test]
fn the_saml_login_of_aws_is_two_connections_and_its_response_is_as_long_as_it_wants() {
    let page = "https://portal.sso.example.test/saml/assertion?x=a:b";
    let (mut client, mut server) = configs(Kind::None);
    // What a profile with `auth-federate` gives.
    client.wide_strings = true;
    client.credentials =
        Some(Credentials { username: "N/A".into(), password: "ACS::35001".to_owned().into() });
    let words = format!("AUTH_FAILED,CRV1:R:instance-1/7/8:Ti9B:{page}");
    server.scripts = vec![Script::say(&words), Script::accept()];
    let mut lab = Lab::with(0, (client, server));
    lab.world.run_for(secs(2));
    let asked = prompts(&lab);
    assert!(matches!(asked.as_slice(), [Prompt::Answer { text, .. }] if text == page), "{asked:?}");
    let response = "PHNhbWw+".repeat(15_000);
    answer(&mut lab, &response);
    assert!(lab.up_within(secs(30)), "{:?}", lab.said());
    let logins = lab.logins();
    assert_eq!(logins[0], (0, "N/A".to_owned(), "ACS::35001".to_owned()));
    assert_eq!((logins[1].0, logins[1].1.as_str()), (0, "N/A"));
    assert!(logins[1].2 == format!("CRV1::instance-1/7/8::{response}"), "{} bytes", logins[1].2.len());
    assert!(lab.passes_after(secs(1)).is_some());
}

#[test]
fn a_token_of_entra_as_password_passes_in_the_usual_layout() {
    let (mut client, server) = configs(Kind::Auth);
    let token = "eyJ0eXAiOiJKV1Qi".repeat(250);
    client.credentials = Some(Credentials { username: "AzureAD".into(), password: token.clone().into() });
    let mut lab = Lab::with(0, (client, server));
    assert!(lab.up_within(secs(10)), "{:?}", lab.said());
    assert!(lab.logins() == [(0, "AzureAD".to_owned(), token)], "the server reads the whole token");
}

#[test]
fn no_common_cipher_is_told() {
    let (mut client, server) = configs(Kind::Crypt);
    client.data_ciphers = vec![adit_openvpn::Cipher::Aes192Cbc];
    let mut lab = Lab::with(0, (client, server));
    lab.world.run_for(secs(60));
    assert_eq!(lab.said(), ["ovpn.cipher"]);
}

#[test]
fn a_configuration_that_never_comes_is_told() {
    let (client, mut server) = configs(Kind::Crypt);
    server.scripts = vec![Script::default()];
    let mut lab = Lab::with(0, (client, server));
    lab.world.run_for(secs(100));
    assert!(lab.said().contains(&"ovpn.push.timeout"), "{:?}", lab.said());
}
