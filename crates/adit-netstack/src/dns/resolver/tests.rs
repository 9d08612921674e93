//! Transcripts: a question, a scripted server, an answer.

use adit_tunnel::{DnsConfig, DnsRoute};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A as ARecord, AAAA as AaaaRecord, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record};
use proptest::prelude::*;

use super::*;

const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 8, 0, 53));
const SECOND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 8, 0, 54));

fn config() -> NetConfig {
    NetConfig {
        routes: vec!["10.8.0.0/16".parse().unwrap(), "fd08::/32".parse().unwrap()],
        dns: DnsConfig {
            servers: vec![SERVER, SECOND],
            search: vec!["corp.internal".to_owned()],
            routes: vec![
                DnsRoute { suffix: "split.example".to_owned(), servers: vec![SECOND] },
                DnsRoute { suffix: "blocked.example".to_owned(), servers: Vec::new() },
                DnsRoute {
                    suffix: "outside.example".to_owned(),
                    servers: vec![IpAddr::from([192, 0, 2, 53])],
                },
            ],
        },
        ..NetConfig::default()
    }
}

struct World {
    now: Instant,
    resolver: Resolver,
}

type Outcome = Result<DnsAnswer, DnsFailure>;

impl World {
    fn new() -> Self {
        let mut resolver = Resolver::new(7);
        resolver.configure(&config());
        Self { now: Instant::now(), resolver }
    }

    fn ask(&mut self, name: &str, record: Option<u16>) -> QueryId {
        let question = Question { name: name.to_owned(), record, timeout: Duration::from_secs(5) };
        self.resolver.query(self.now, question)
    }

    /// Runs to the answer; `serve` is every server: it changes the reply, or is silent by returning false.
    fn run(&mut self, mut serve: impl FnMut(IpAddr, bool, &mut Message) -> bool) -> Outcome {
        for _ in 0..100 {
            while let Some(action) = self.resolver.poll_action() {
                let (exchange, to, message, tcp) = match action {
                    Action::Udp { exchange, to, message } => (exchange, to, message, false),
                    Action::Tcp { exchange, to, message } => (exchange, to, message, true),
                    Action::Close { .. } => continue,
                };
                let mut reply = response_to(&message);
                if serve(to.ip(), tcp, &mut reply) {
                    self.resolver.handle_message(self.now, exchange, to, &reply.to_vec().unwrap());
                }
            }
            if let Some((_, outcome)) = self.resolver.poll_event() {
                assert!(
                    self.resolver.exchanges.is_empty() || !self.resolver.queries.is_empty(),
                    "an exchange leaked"
                );
                return outcome;
            }
            let deadline = self.resolver.poll_timeout().expect("a question without an answer has a deadline");
            assert!(deadline.at > self.now, "the deadline `{}` is not in the future", deadline.why);
            self.now = deadline.at;
            self.resolver.handle_timeout(self.now);
        }
        panic!("no answer after 100 deadlines");
    }
}

fn response_to(query: &[u8]) -> Message {
    let query = Message::from_vec(query).unwrap();
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.add_query(query.queries[0].clone());
    reply
}

fn name(reply: &Message) -> String {
    reply.queries[0].name().to_ascii()
}

fn asks(reply: &Message, record: u16) -> bool {
    u16::from(reply.queries[0].query_type()) == record
}

fn add(reply: &mut Message, owner: &str, ttl: u32, data: RData) {
    reply.add_answer(Record::from_rdata(Name::from_ascii(owner).unwrap(), ttl, data));
}

fn host(reply: &mut Message) {
    let owner = name(reply);
    if asks(reply, A) {
        add(reply, &owner, 60, RData::A(ARecord::new(10, 8, 0, 5)));
    } else if asks(reply, AAAA) {
        add(reply, &owner, 30, RData::AAAA(AaaaRecord("fd08::5".parse().unwrap())));
    }
}

fn nxdomain(reply: &mut Message) {
    reply.metadata.response_code = ResponseCode::NXDomain;
}

#[test]
fn both_families_are_asked_and_joined_under_the_shorter_ttl() {
    let mut world = World::new();
    world.ask("db.corp.internal", None);
    let answer = world
        .run(|_, _, reply| {
            host(reply);
            true
        })
        .unwrap();
    assert_eq!(answer.addresses, [IpAddr::from([10, 8, 0, 5]), "fd08::5".parse().unwrap()]);
    assert_eq!((answer.ttl, answer.rule.as_str()), (Duration::from_secs(30), "default"));
    assert_eq!(answer.server, Some(SocketAddr::new(SERVER, 53)));
}

#[test]
fn a_single_label_is_completed_by_the_search_domain() {
    let mut world = World::new();
    world.ask("DB", Some(A));
    let answer = world
        .run(|_, _, reply| {
            host(reply);
            true
        })
        .unwrap();
    assert_eq!((answer.name.as_str(), answer.rule.as_str()), ("db.corp.internal", "search:corp.internal"));
    assert!(!answer.message.is_empty(), "a single question keeps the server's message");
}

#[test]
fn split_rules_choose_the_server_and_an_empty_one_answers_nothing() {
    let mut world = World::new();
    world.ask("a.split.example", Some(A));
    let answer = world
        .run(|server, _, reply| {
            assert_eq!(server, SECOND);
            host(reply);
            true
        })
        .unwrap();
    assert_eq!(answer.rule, "split:split.example");
    world.ask("a.blocked.example.", Some(A));
    assert_eq!(
        world.run(|_, _, _| panic!("nobody may be asked")).unwrap_err(),
        DnsFailure::NoServer { name: "a.blocked.example".to_owned() }
    );
    world.ask("a.outside.example.", Some(A));
    let unrouted = DnsFailure::ServerUnrouted { server: IpAddr::from([192, 0, 2, 53]) };
    assert_eq!(world.run(|_, _, _| panic!("nobody may be asked")).unwrap_err(), unrouted);
}

#[test]
fn a_silent_server_is_followed_by_the_next_and_silence_of_all_has_a_class_of_its_own() {
    let mut world = World::new();
    world.ask("db.corp.internal.", Some(A));
    let answer = world
        .run(|server, _, reply| {
            host(reply);
            server == SECOND
        })
        .unwrap();
    assert_eq!(answer.server, Some(SocketAddr::new(SECOND, 53)));
    world.ask("other.corp.internal.", Some(A));
    assert_eq!(
        world.run(|_, _, _| false).unwrap_err(),
        DnsFailure::Silent {
            name: "other.corp.internal.".to_owned(),
            servers: vec![SERVER, SECOND],
            after: Duration::from_secs(5),
        }
    );
}

#[test]
fn errors_of_all_servers_name_the_last_one() {
    let mut world = World::new();
    world.ask("db.corp.internal.", Some(A));
    let failure = world.run(|_, _, reply| {
        reply.metadata.response_code = ResponseCode::ServFail;
        true
    });
    assert_eq!(
        failure.unwrap_err(),
        DnsFailure::Failed {
            name: "db.corp.internal".to_owned(),
            server: SECOND,
            code: "SERVFAIL".to_owned(),
        }
    );
}

#[test]
fn a_truncated_reply_is_fetched_over_tcp() {
    let mut world = World::new();
    world.ask("db.corp.internal", Some(A));
    let mut tried = Vec::new();
    let answer = world.run(|_, tcp, reply| {
        tried.push(tcp);
        match tcp {
            true => host(reply),
            false => reply.metadata.truncation = true,
        }
        true
    });
    assert_eq!(answer.unwrap().addresses, [IpAddr::from([10, 8, 0, 5])]);
    assert_eq!(tried, [false, true]);
}

#[test]
fn a_name_that_does_not_exist_is_tried_in_every_search_domain_first() {
    let mut world = World::new();
    world.ask("db.x", Some(A));
    let mut tried = Vec::new();
    let failure = world
        .run(|_, _, reply| {
            tried.push(name(reply));
            nxdomain(reply);
            true
        })
        .unwrap_err();
    assert_eq!(tried, ["db.x.", "db.x.corp.internal."]);
    assert_eq!(failure, DnsFailure::NoSuchName { name: "db.x".to_owned(), server: SERVER });
}

#[test]
fn a_name_without_records_of_the_type_is_no_failure() {
    let mut world = World::new();
    world.ask("db.corp.internal", Some(AAAA));
    let answer = world.run(|_, _, _| true).unwrap();
    assert_eq!(answer.addresses, Vec::<IpAddr>::new());
}

#[test]
fn aliases_are_followed_inside_the_reply() {
    let mut world = World::new();
    world.ask("www.corp.internal", Some(A));
    let answer = world.run(|_, _, reply| {
        let target = Name::from_ascii("db.corp.internal.").unwrap();
        add(reply, "www.corp.internal.", 300, RData::CNAME(CNAME(target)));
        add(reply, "db.corp.internal.", 60, RData::A(ARecord::new(10, 8, 0, 5)));
        add(reply, "stranger.corp.internal.", 60, RData::A(ARecord::new(10, 8, 6, 6)));
        true
    });
    assert_eq!(answer.unwrap().addresses, [IpAddr::from([10, 8, 0, 5])]);
}

#[test]
fn answers_outside_the_routes_are_refused_unless_allowed() {
    let outside = |reply: &mut Message| {
        let owner = name(reply);
        add(reply, &owner, 60, RData::A(ARecord::new(192, 0, 2, 9)));
    };
    let mut world = World::new();
    world.ask("db.corp.internal", Some(A));
    assert_eq!(
        world
            .run(|_, _, reply| {
                outside(reply);
                true
            })
            .unwrap_err(),
        DnsFailure::AnswerUnrouted {
            name: "db.corp.internal".to_owned(),
            address: IpAddr::from([192, 0, 2, 9]),
        }
    );
    world.resolver.allow_unrouted_answers(true);
    world.ask("db.corp.internal", Some(A));
    let answer = world
        .run(|_, _, reply| {
            outside(reply);
            true
        })
        .unwrap();
    assert_eq!(answer.addresses, [IpAddr::from([192, 0, 2, 9])]);
}

#[test]
fn answers_are_kept_for_their_ttl_and_denials_for_that_of_the_soa() {
    let mut world = World::new();
    world.ask("db.corp.internal", Some(A));
    world
        .run(|_, _, reply| {
            host(reply);
            true
        })
        .unwrap();
    world.now += Duration::from_secs(59);
    world.ask("db.corp.internal", Some(A));
    let answer = world.run(|_, _, _| panic!("the answer is still good")).unwrap();
    assert_eq!(answer.ttl, Duration::from_secs(1));
    world.now += Duration::from_secs(2);
    world.ask("db.corp.internal", Some(A));
    let mut asked = 0;
    world
        .run(|_, _, reply| {
            asked += 1;
            host(reply);
            true
        })
        .unwrap();
    assert_eq!(asked, 1);

    let deny = |reply: &mut Message| {
        nxdomain(reply);
        let zone = Name::from_ascii("corp.internal.").unwrap();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 20);
        reply.add_authority(Record::from_rdata(zone, 3600, RData::SOA(soa)));
    };
    world.ask("no.corp.internal.", Some(A));
    world
        .run(|_, _, reply| {
            deny(reply);
            true
        })
        .unwrap_err();
    world.ask("no.corp.internal.", Some(A));
    world.run(|_, _, _| panic!("the denial is still good")).unwrap_err();
}

#[test]
fn replies_that_do_not_match_the_question_are_ignored() {
    let mut world = World::new();
    world.ask("db.corp.internal.", Some(A));
    let Some(Action::Udp { exchange, to, message }) = world.resolver.poll_action() else {
        panic!("no query")
    };
    let mut good = response_to(&message);
    host(&mut good);
    let bytes = good.to_vec().unwrap();
    let (now, stranger) = (world.now, SocketAddr::new(SECOND, 53));
    world.resolver.handle_message(now, exchange, stranger, &bytes);
    world.resolver.handle_message(now, exchange, SocketAddr::new(to.ip(), 5353), &bytes);
    world.resolver.handle_message(now, exchange + 1, to, &bytes);
    let mut other = good.clone();
    other.metadata.id ^= 1;
    world.resolver.handle_message(now, exchange, to, &other.to_vec().unwrap());
    assert_eq!(world.resolver.poll_event(), None);
    world.resolver.handle_message(now, exchange, to, &bytes);
    assert!(world.resolver.poll_event().is_some_and(|(_, outcome)| outcome.is_ok()));
}

#[test]
fn too_many_questions_and_bad_names_are_answered_at_once() {
    let mut world = World::new();
    world.ask("a..b", Some(A));
    assert!(matches!(world.resolver.poll_event(), Some((_, Err(DnsFailure::BadName { .. })))));
    for i in 0..=MAX_QUERIES {
        world.ask(&format!("h{i}.corp.internal"), Some(A));
    }
    assert!(matches!(world.resolver.poll_event(), Some((_, Err(DnsFailure::OverBudget)))));
}

#[test]
fn a_cancelled_question_gets_no_answer_and_frees_its_exchange() {
    let mut world = World::new();
    let id = world.ask("db.corp.internal", Some(A));
    world.resolver.cancel(id);
    assert!(world.resolver.poll_timeout().is_none() && world.resolver.poll_event().is_none());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic_and_never_answer(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut world = World::new();
        world.ask("db.corp.internal.", Some(A));
        let Some(Action::Udp { exchange, to, message }) = world.resolver.poll_action() else { panic!("no query") };
        let mut bytes = bytes;
        // Half of the cases get past the id and the header.
        if bytes.len() > 12 && bytes[0] & 1 == 0 {
            bytes[..2].copy_from_slice(&message[..2]);
            bytes[2] |= 0x80;
        }
        world.resolver.handle_message(world.now, exchange, to, &bytes);
        prop_assert!(!matches!(world.resolver.poll_event(), Some((_, Ok(_)))));
    }
}
