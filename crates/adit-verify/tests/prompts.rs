//! A tunnel that waits for a person: told at once, waited for until the deadline over everything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_path::{Network, Phase};
use adit_sim::ScriptedNetwork;
use adit_tunnel::Prompt;
use adit_verify::{Event, Exit, NetworkDialer, Plan, Report, Stage, verify};
use tokio::time::{Instant, sleep};

const URL: &str = "https://login.example/approve?id=77";

fn waiting() -> ScriptedNetwork {
    waiting_in(Phase::Connecting)
}

fn waiting_in(phase: Phase) -> ScriptedNetwork {
    let network = ScriptedNetwork::new();
    network.set_status(move |status| {
        status.phase = phase;
        status.ups = 0;
        status.prompt = Some(Prompt::Open { url: URL.to_owned(), timeout: Some(Duration::from_secs(300)) });
    });
    network
}

async fn run(network: &ScriptedNetwork) -> (Report, Vec<Event>) {
    run_with(network, true).await
}

async fn run_with(network: &ScriptedNetwork, answered: bool) -> (Report, Vec<Event>) {
    let plan = Plan {
        answered,
        provider: Some("openvpn".to_owned()),
        timeout: Duration::from_secs(40),
        ..Plan::new(Vec::new(), "2026-11-23T08:00:00Z")
    };
    let events = Mutex::new(Vec::new());
    let dialer = NetworkDialer::new(Arc::new(network.clone()) as Arc<dyn Network>);
    let report = verify(network, &dialer, &plan, &|event| events.lock().unwrap().push(event)).await;
    (report, events.into_inner().unwrap())
}

fn asked(events: &[Event]) -> usize {
    let wanted = Event::AuthRequired { url: URL.to_owned(), qr: None, timeout_ms: Some(300_000) };
    events.iter().filter(|event| **event == wanted).count()
}

#[tokio::test(start_paused = true)]
async fn a_page_to_sign_in_is_told_once_and_waited_for_longer_than_a_server() {
    // A node of a tailnet has no link to any server of its data side before somebody has signed in.
    for phase in [Phase::Connecting, Phase::Starting] {
        let network = waiting_in(phase);
        let approved = network.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(30)).await;
            approved.set_status(|status| {
                status.phase = Phase::Up;
                status.prompt = None;
                status.ups = 1;
                status.counters.host_received = 1;
            });
        });
        let (report, events) = run(&network).await;
        assert!(report.ok, "{report:#?}");
        assert_eq!(asked(&events), 1, "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_who_signs_in_is_a_failure_of_its_own_with_the_page() {
    let began = Instant::now();
    let (report, events) = run(&waiting()).await;
    let failure = report.failure.unwrap();
    assert_eq!(
        (failure.class.as_str(), failure.exit, failure.stage),
        ("ovpn.auth.pending", Exit::AuthorisationPending, Some(Stage::Handshake))
    );
    assert!(failure.evidence.iter().any(|seen| seen.contains(URL)), "{failure:?}");
    assert!(began.elapsed() > Duration::from_secs(39), "the whole time is used");
    assert_eq!(asked(&events), 1, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_question_without_anybody_to_answer_ends_the_run_at_once() {
    for phase in [Phase::Starting, Phase::Connecting] {
        let network = waiting();
        network.set_status(|status| {
            status.phase = phase;
            status.prompt = Some(Prompt::Answer { id: 1, text: "Your PIN".to_owned(), echo: false });
        });
        let began = Instant::now();
        let (report, _) = run_with(&network, false).await;
        let failure = report.failure.unwrap();
        assert_eq!(
            (failure.class.as_str(), failure.exit),
            ("ovpn.auth.challenge", Exit::AuthorisationPending)
        );
        assert!(failure.summary.contains("Your PIN"), "{failure:?}");
        assert!(began.elapsed() < Duration::from_secs(1));
        let (report, _) = run_with(&network, true).await;
        assert_ne!(report.failure.unwrap().class, "ovpn.auth.challenge", "somebody answers, and takes long");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_before_anything_was_sent_inside_has_been_reached() {
    let network = waiting();
    network.set_status(|status| status.phase = Phase::Starting);
    let plan = Plan {
        provider: Some("tailscale".to_owned()),
        timeout: Duration::from_secs(40),
        ..Plan::new(Vec::new(), "2026-11-23T08:00:00Z")
    };
    let dialer = NetworkDialer::new(Arc::new(network.clone()) as Arc<dyn Network>);
    let report = verify(&network, &dialer, &plan, &|_| {}).await;
    let failure = report.failure.unwrap();
    assert_eq!((failure.class.as_str(), failure.exit), ("ts.login.timeout", Exit::AuthorisationPending));
    assert!(failure.summary.contains(URL), "{failure:?}");
    assert_eq!(report.furthest_stage, Stage::Handshake);
}
