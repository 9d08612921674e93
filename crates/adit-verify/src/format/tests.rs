use super::*;
use crate::catalogue::Words;
use crate::{Event, Exit, Failure, SCHEMA, Stage, StageStatus, Verified, Warning};

fn report() -> Report {
    let target = "tcp://db.internal:5432,postgres".to_owned();
    let words = Words::default().with("target", &target).with("port", 5432);
    let failure = Failure::of("target.refused", &words)
        .at(Stage::Target)
        .of_target(&target)
        .seen("the host answered with a TCP reset: 100%, twice")
        .seen("second\nline");
    let mut failed = StageReport::new(Stage::Target, StageStatus::Fail, 2004);
    failed.target = Some(target.clone());
    failed.attempts = Some(2);
    failed.class = Some("target.refused".to_owned());
    let mut dns = StageReport::new(Stage::Dns, StageStatus::Ok, 44).seen("answer", vec!["10.8.0.12"]);
    dns.target = Some(target);
    Report {
        schema: SCHEMA.to_owned(),
        adit: "0.1.0".to_owned(),
        ok: false,
        exit_code: 31,
        profile: Some("staging".to_owned()),
        provider: Some("wireguard".to_owned()),
        mode: Some("userspace".to_owned()),
        started: "2026-11-23T08:00:00Z".to_owned(),
        duration_ms: 2100,
        verified: Verified::None,
        furthest_stage: Stage::Target,
        this: None,
        path: None,
        stages: vec![
            StageReport::new(Stage::Auth, StageStatus::Skipped, 0).seen("why", "not needed"),
            StageReport::new(Stage::Handshake, StageStatus::Ok, 31),
            dns,
            failed,
        ],
        failure: Some(failure),
        other_failures: Vec::new(),
        warnings: vec![Warning { class: "wg.mtu".to_owned(), summary: "large packets, lost".to_owned() }],
    }
}

#[test]
fn text_has_a_line_per_stage_and_six_per_failure() {
    assert_eq!(
        text(&report(), Style::default()),
        "\
- auth       not needed
✓ handshake  31 ms
✓ dns        tcp://db.internal:5432,postgres: 10.8.0.12  44 ms
! warning large packets, lost  [wg.mtu]
✗ target     tcp://db.internal:5432,postgres refused the connection  [target.refused]
  seen: the host answered with a TCP reset: 100%, twice
  seen: second
line
  fix:  Check that the service runs and listens on port 5432, and not on 127.0.0.1 only.
  fix:  Check the port number.
  more: adit explain target.refused
Not verified after 2.1 s, exit code 31
"
        .replace("second\nline", "second line")
    );
}

#[test]
fn a_heartbeat_says_what_is_waited_for_and_how_long_it_may_take() {
    let waiting = Event::Waiting {
        id: Stage::Dns,
        target: Some("tcp://db.internal:5432".to_owned()),
        elapsed_ms: 12_040,
        limit_ms: 60_000,
    };
    assert_eq!(
        progress(&waiting, Style::default()).as_deref(),
        Some("still waiting for dns: tcp://db.internal:5432 (12 s of 60 s)")
    );
}

#[test]
fn github_commands_are_one_line_each_and_escaped() {
    let text = github(&report());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("::error title=adit%3A target.refused::tcp://db.internal:5432,postgres refused")
    );
    assert!(lines[0].contains("100%25, twice%0Aseen: second%0Aline%0Afix: "));
    assert_eq!(lines[1], "::warning title=adit%3A wg.mtu::large packets, lost");
    assert!(github_summary(&report()).contains("| ❌ | target |"));
}

#[test]
fn junit_has_a_case_per_stage_and_the_failure_in_its_own() {
    let text = junit(&report());
    assert!(text.contains("tests=\"4\" failures=\"1\" skipped=\"1\" time=\"2.100\""), "{text}");
    assert_eq!(text.matches("<testcase ").count(), 4);
    assert!(text.contains(
        "name=\"target tcp://db.internal:5432,postgres\" time=\"2.004\"><failure type=\"target.refused\""
    ));
    assert!(text.contains("second&#10;line"));
}

#[test]
fn a_hook_blocks_with_the_sentence_and_never_ends_with_another_code_than_0_or_2() {
    let (object, exit) = fabro_hook(&report());
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert_eq!((object["decision"].as_str(), exit), (Some("block"), Exit::Usage));
    assert!(
        object["reason"]
            .as_str()
            .unwrap()
            .contains("refused the connection [target.refused, exit code 31]. Fix:")
    );
    let good = Report { ok: true, exit_code: 0, failure: None, ..report() };
    let (object, exit) = fabro_hook(&good);
    assert!(object.contains("\"decision\":\"proceed\"") && exit == Exit::Ok);
}

#[test]
fn every_report_matches_the_schema_and_reads_back() {
    let schema: serde_json::Value = serde_json::from_str(crate::JSON_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let check = |report: &Report| {
        let value: serde_json::Value = serde_json::from_str(&json(report)).unwrap();
        let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}\n{value:#}");
        assert_eq!(&serde_json::from_str::<Report>(&json(report)).unwrap(), report);
    };
    check(&report());
    check(&Report { ok: true, exit_code: 0, failure: None, verified: Verified::Targets, ..report() });
    let mut wrong: serde_json::Value = serde_json::from_str(&json(&report())).unwrap();
    wrong["failure"] = serde_json::Value::Null;
    assert!(!validator.is_valid(&wrong), "a failed report names its failure");
}

#[test]
fn the_fields_of_a_report_stand_in_the_documented_order() {
    let text = json(&report());
    let keys = [
        "schema",
        "adit",
        "ok",
        "exit_code",
        "profile",
        "provider",
        "mode",
        "started",
        "duration_ms",
        "verified",
        "furthest_stage",
        "stages",
        "failure",
        "warnings",
    ];
    let places: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn a_page_is_a_link_on_a_terminal_unless_it_would_steer_it() {
    let asked = |url: &str, qr: Option<&str>| Event::AuthRequired {
        url: url.to_owned(),
        qr: qr.map(str::to_owned),
        timeout_ms: None,
    };
    let links = Style { links: true, ..Style::default() };
    let page = asked("https://login.example/a", None);
    assert_eq!(
        progress(&page, links).unwrap(),
        "open this page to log in:\n\x1b]8;;https://login.example/a\x1b\\https://login.example/a\x1b]8;;\x1b\\"
    );
    let with_code = asked("https://login.example/a", Some("▄▀"));
    assert_eq!(
        progress(&with_code, Style::default()).unwrap(),
        "open this page to log in:\nhttps://login.example/a\n▄▀"
    );
    let hostile = asked("https://login.example/\x1b]0;", None);
    assert!(!progress(&hostile, links).unwrap().contains("8;;"));
}
