use super::*;
use crate::{PullFilter, PullVerdict};
use adit_tunnel::{DnsConfig, DnsRoute, NetConfig, Prefix};
use std::time::Duration;

/// What of a profile matters here.
fn pull(edit: impl FnOnce(&mut Profile)) -> Pull {
    let mut profile = Profile {
        ciphers: vec![Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305],
        protected: vec![prefix("172.17.0.0/16")],
        tun_mtu: 1500,
        ..Profile::default()
    };
    edit(&mut profile);
    Pull::from_profile(profile, Some("192.0.2.1".parse().unwrap()))
}

fn plain() -> Pull {
    pull(|_| ())
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn prefixes(list: &[&str]) -> Vec<Prefix> {
    list.iter().map(|text| prefix(text)).collect()
}

fn net(text: &str) -> NetConfig {
    let mut pull = plain();
    assert_eq!(pull.reply(text), Ok(Progress::Complete), "{text}");
    pull.net_config().unwrap()
}

fn notices(pull: &mut Pull) -> Vec<NoticeKind> {
    pull.take_notices().into_iter().map(|notice| notice.kind).collect()
}

/// What Access Server pushes, shortened.
const ACCESS_SERVER: &str = "explicit-exit-notify,topology subnet,route-delay 5 30,dhcp-pre-release,dhcp-renew,\
     dhcp-release,route-metric 101,ping 12,ping-restart 50,redirect-gateway def1,redirect-gateway bypass-dhcp,\
     redirect-gateway autolocal,route-gateway 172.27.224.1,dhcp-option DNS 172.27.224.1,register-dns,block-ipv6,\
     ifconfig 172.27.224.2 255.255.240.0,peer-id 0,auth-token SESS_ID_abc,cipher AES-256-GCM,key-derivation tls-ekm,\
     compress stub-v2";

#[test]
fn a_push_of_access_server_is_understood_without_a_word() {
    let mut pull = plain();
    assert_eq!(pull.reply(ACCESS_SERVER), Ok(Progress::Complete));
    let pushed = pull.pushed().unwrap();
    assert_eq!((pushed.cipher, pushed.peer_id), (Some(Cipher::Aes256Gcm), Some(0)));
    assert_eq!(pushed.flags, ProtocolFlags { tls_ekm: true, ..ProtocolFlags::default() });
    assert_eq!(pushed.ping, Some(Duration::from_secs(12)));
    assert_eq!(pushed.ping_restart, Some(Duration::from_secs(50)));
    assert_eq!(pushed.compression, Some(crate::Compression::StubV2));
    assert_eq!(pushed.exit_notify, Some(1));
    assert_eq!(pushed.auth_token.as_ref().unwrap().as_str(), "SESS_ID_abc");
    let config = pull.net_config().unwrap();
    assert_eq!(config.addresses, prefixes(&["172.27.224.2/20"]));
    assert_eq!(config.routes, prefixes(&["172.27.224.0/20", "0.0.0.0/0", "::/0"]));
    let outside = ["172.17.0.0/16", "192.0.2.1/32", "169.254.0.0/16", "fd00:ec2::254/128"];
    assert_eq!(config.excluded, prefixes(&outside));
    assert_eq!(config.dns.servers, ["172.27.224.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(notices(&mut pull), []);
}

#[test]
fn topologies_make_addresses() {
    for (text, address, link) in [
        ("topology subnet,ifconfig 10.8.0.2 255.255.255.0", "10.8.0.2/24", "10.8.0.0/24"),
        ("ifconfig 10.8.0.6 10.8.0.5", "10.8.0.6/32", "10.8.0.5/32"),
        ("topology net30,ifconfig 10.8.0.6 10.8.0.5", "10.8.0.6/32", "10.8.0.5/32"),
        ("ifconfig 10.8.0.6 10.8.0.1,topology p2p", "10.8.0.6/32", "10.8.0.1/32"),
        ("ifconfig 10.8.0.2 255.255.255.0", "10.8.0.2/24", "10.8.0.0/24"),
        ("ifconfig-ipv6 fd00:8::1000/64 fd00:8::1", "fd00:8::1000/64", "fd00:8::/64"),
    ] {
        let config = net(text);
        assert_eq!((config.addresses, config.routes), (prefixes(&[address]), prefixes(&[link])), "{text}");
    }
}

#[test]
fn a_push_comes_in_parts_and_counts_once_it_is_whole() {
    let mut pull = plain();
    let part =
        |n: u8| format!("route 10.{n}.0.0 255.255.0.0,push-continuation {}", if n < 3 { 2 } else { 1 });
    assert_eq!(pull.reply(&format!("ifconfig 10.8.0.6 10.8.0.5,{}", part(1))), Ok(Progress::Partial));
    assert_eq!(pull.pushed(), None);
    assert_eq!(pull.reply(&part(2)), Ok(Progress::Partial));
    assert_eq!(pull.reply(&part(3)), Ok(Progress::Complete));
    assert_eq!(pull.pushed().unwrap().routes, prefixes(&["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]));
    // A message without the option ends a push as well.
    let mut pull = plain();
    assert_eq!(pull.reply("ifconfig 10.8.0.6 10.8.0.5,push-continuation 2"), Ok(Progress::Partial));
    assert_eq!(pull.reply("ping 10"), Ok(Progress::Complete));
}

#[test]
fn a_later_push_renews_the_token_and_nothing_else() {
    let mut pull = plain();
    pull.reply(ACCESS_SERVER).unwrap();
    let before = pull.net_config().unwrap();
    assert_eq!(pull.reply("auth-token SESS_ID_new,auth-token-user dQ=="), Ok(Progress::Token));
    assert_eq!(pull.pushed().unwrap().auth_token.as_ref().unwrap().as_str(), "SESS_ID_new");
    assert_eq!(pull.pushed().unwrap().auth_token_user.as_ref().unwrap().as_str(), "dQ==");
    assert_eq!(pull.reply("ifconfig 10.0.0.1 10.0.0.2,route 10.0.0.0 255.0.0.0"), Ok(Progress::Unchanged));
    assert_eq!(pull.net_config().unwrap(), before);
}

#[test]
fn the_profile_filters_what_it_does_not_want() {
    let filter = |prefix: &str, verdict| PullFilter { prefix: prefix.to_owned(), verdict };
    let text = "ifconfig 10.8.0.6 10.8.0.5,route 10.1.0.0 255.255.0.0,route 10.2.0.0 255.255.0.0,\
         redirect-gateway def1,dhcp-option DNS 10.0.0.53,dns search-domains a.example,auth-token T";
    let mut filtered = pull(|profile| {
        profile.filters = vec![
            filter("route 10.1", PullVerdict::Accept),
            filter("route ", PullVerdict::Ignore),
            filter("auth-token", PullVerdict::Ignore),
        ];
    });
    filtered.reply(text).unwrap();
    assert_eq!(filtered.pushed().unwrap().routes, prefixes(&["10.1.0.0/16"]));
    assert_eq!(filtered.pushed().unwrap().auth_token, None);
    let mut rejecting = pull(|profile| profile.filters = vec![filter("redirect", PullVerdict::Reject)]);
    assert_eq!(rejecting.reply(text), Err(PushError::Rejected { option: "redirect-gateway def1".into() }));
    let mut nopull = pull(|profile| profile.nopull = true);
    nopull.reply(text).unwrap();
    let config = nopull.net_config().unwrap();
    assert_eq!(config.routes, prefixes(&["10.8.0.5/32"]));
    assert_eq!(config.dns, DnsConfig::default());
    assert!(nopull.pushed().unwrap().auth_token.is_some());
}

#[test]
fn what_is_not_the_servers_to_take_is_refused_and_reported() {
    let mut pull = plain();
    let text = "ifconfig 10.8.0.6 10.8.0.5,route 127.0.0.0 255.0.0.0,route 169.254.169.254,route 172.17.3.0 255.255.255.0,\
         route 192.0.2.1,route 224.0.0.0 240.0.0.0,route-ipv6 fe80::/10,dhcp-option DNS 127.0.0.53,\
         dhcp-option DNS 169.254.169.254,dhcp-option DNS 172.17.0.1,dns server 1 address 192.0.2.1 10.0.0.53,\
         up /bin/sh,script-security 3,remote 198.51.100.1";
    assert_eq!(pull.reply(text), Ok(Progress::Complete));
    let config = pull.net_config().unwrap();
    assert_eq!(config.routes, prefixes(&["10.8.0.5/32"]));
    assert_eq!(config.dns.servers, ["10.0.0.53".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(pull.counts(), (13, 0));
    let notices = pull.take_notices();
    assert_eq!(notices.len(), 13);
    assert_eq!(
        notices[2].to_string(),
        "the server pushed `route 172.17.3.0 255.255.255.0`: refused, 172.17.0.0/16 stays outside of the tunnel"
    );
    assert_eq!(notices[10].kind, NoticeKind::NotPushable);
    assert_eq!(pull.take_notices(), []);
}

#[test]
fn a_wide_route_is_taken_around_what_is_protected() {
    let mut pull = plain();
    pull.reply("ifconfig 10.8.0.6 10.8.0.5,route 172.16.0.0 255.240.0.0").unwrap();
    let config = pull.net_config().unwrap();
    assert_eq!(config.excluded, prefixes(&["172.17.0.0/16"]));
    assert!(config.routes_to("172.18.0.1".parse().unwrap()));
    assert!(!config.routes_to("172.17.0.1".parse().unwrap()));
    assert_eq!(notices(&mut pull), [NoticeKind::Carved(prefix("172.17.0.0/16"))]);
}

#[test]
fn an_address_that_cannot_be_ours_ends_the_attempt() {
    for text in [
        "ifconfig 127.0.0.1 127.0.0.2",
        "ifconfig 0.0.0.0 0.0.0.0",
        "ifconfig-ipv6 ff02::1/64",
        // The sandbox's own network: on a device, such an address would take its gateway's place.
        "topology subnet,ifconfig 172.17.0.77 255.255.0.0",
    ] {
        assert!(matches!(plain().reply(text), Err(PushError::Address { .. })), "{text}");
    }
    let mut pull = plain();
    pull.reply("ifconfig 10.8.0.6 172.17.0.1").unwrap();
    let config = pull.net_config().unwrap();
    assert_eq!((config.addresses, config.routes), (prefixes(&["10.8.0.6/32"]), vec![]));
    assert!(matches!(notices(&mut pull)[..], [NoticeKind::Refused(Ground::Protected(_))]));
}

#[test]
fn absurd_values_are_bounded() {
    let mut pull = plain();
    pull.reply(
        "ifconfig 10.8.0.6 10.8.0.5,tun-mtu 0,tun-mtu 70000,tun-mtu 1601,ping 0,ping-restart 4294967295,\
         inactive 4000000000,explicit-exit-notify 4000000000,dns server 1 address 10.0.0.1:5353,route x.example",
    )
    .unwrap();
    let pushed = pull.pushed().unwrap();
    assert_eq!((pushed.tun_mtu, pushed.exit_notify, pushed.inactive), (None, Some(10), None));
    assert_eq!((pushed.ping, pushed.ping_restart), (Some(Duration::ZERO), None));
    assert_eq!(pull.net_config().unwrap().mtu, 1500);
    assert_eq!(notices(&mut pull).len(), 7);
}

#[test]
fn a_flood_of_routes_is_bounded() {
    let mut pull = plain();
    let mut routes = String::from("ifconfig 10.8.0.6 10.8.0.5");
    for n in 0..10_000 {
        routes.push_str(&format!(",route 10.{}.{}.0 255.255.255.0", n / 256, n % 256));
    }
    assert_eq!(pull.reply(&routes), Ok(Progress::Complete));
    assert_eq!(pull.net_config().unwrap().routes.len(), 4097);
    assert_eq!(pull.counts(), (10_000 - 4096, 10_000 - 4096 - 64));
    assert_eq!(pull.take_notices().len(), 64);
    let mut pull = plain();
    let endless = format!("{},push-continuation 2", "x".repeat(60_000));
    let error = (0..100).find_map(|_| pull.reply(&endless).err());
    assert_eq!(error, Some(PushError::TooLong { limit: 1 << 20 }));
}

#[test]
fn what_would_break_the_data_channel_ends_the_attempt() {
    let ours = vec![Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
    assert_eq!(
        plain().reply("cipher AES-128-CBC"),
        Err(PushError::Cipher { name: "AES-128-CBC".into(), ours })
    );
    assert_eq!(
        plain().reply("protocol-flags cc-exit warp"),
        Err(PushError::ProtocolFlag { flag: "warp".into() })
    );
    for text in ["peer-id 16777216", "peer-id x", "key-derivation magic", "cipher", "ifconfig 10.8.0.6"] {
        assert!(matches!(plain().reply(text), Err(PushError::Broken { .. })), "{text}");
    }
    let mut nothing = plain();
    nothing.reply("ping 10").unwrap();
    assert_eq!(nothing.net_config(), Err(PushError::NoAddress));
}

#[test]
fn the_newer_syntax_of_dns_replaces_the_older_one() {
    let servers = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    let config = net("ifconfig 10.8.0.6 10.8.0.5,dhcp-option DNS 10.0.0.1,dhcp-option DOMAIN old.example,\
         dns search-domains a.example B.Example,dns server 0 transport DoT,dns server 0 address 10.0.0.2,\
         dns server 2 address 10.0.0.4,dns server 1 address 10.0.0.3 [fd00::3],\
         dns server 1 resolve-domains corp.example lab.example");
    let rule = |suffix: &str| DnsRoute { suffix: suffix.into(), servers: servers(&["10.0.0.3", "fd00::3"]) };
    assert_eq!(config.dns.routes, [rule("corp.example"), rule("lab.example")]);
    assert_eq!(config.dns.search, ["a.example", "b.example"]);
    assert_eq!(config.dns.servers, servers(&[]));
    let config =
        net("ifconfig 10.8.0.6 10.8.0.5,dhcp-option DOMAIN a.example,dhcp-option DOMAIN-SEARCH b.example");
    assert_eq!(config.dns.search, ["a.example", "b.example"]);
}

#[test]
fn gateways_outside_become_exclusions() {
    let config = net(
        "ifconfig 10.8.0.6 10.8.0.5,redirect-gateway def1 ipv6,route 198.51.100.0 255.255.255.0 net_gateway,\
         route remote_host 255.255.255.255 net_gateway,route-ipv6 2001:db8::/32 net_gateway",
    );
    let excluded = [
        "198.51.100.0/24",
        "2001:db8::/32",
        "172.17.0.0/16",
        "192.0.2.1/32",
        "169.254.0.0/16",
        "fd00:ec2::254/128",
    ];
    assert_eq!(config.excluded, prefixes(&excluded));
    assert!(!config.routes_to("169.254.169.254".parse().unwrap()));
    assert_eq!(config.routes, prefixes(&["10.8.0.5/32", "0.0.0.0/0", "::/0"]));
}

#[test]
fn routes_and_addresses_of_the_profile_are_the_users_own() {
    let mut pull = pull(|profile| {
        profile.addresses = prefixes(&["10.9.0.2/24", "fd09::2/64"]);
        profile.routes = vec![
            crate::RouteOption { prefix: prefix("172.17.9.0/24"), outside: false },
            crate::RouteOption { prefix: prefix("10.8.4.0/24"), outside: true },
        ];
    });
    pull.reply("ifconfig 10.8.0.6 255.255.0.0").unwrap();
    let config = pull.net_config().unwrap();
    assert_eq!(config.addresses, prefixes(&["10.8.0.6/16", "fd09::2/64"]));
    assert_eq!(config.routes, prefixes(&["172.17.9.0/24", "10.8.0.0/16", "fd09::/64"]));
    assert_eq!(config.excluded, prefixes(&["10.8.4.0/24"]));
    assert!(config.routes_to("172.17.9.1".parse().unwrap()));
}

const BASE: &str = "ifconfig 10.8.0.6 10.8.0.5,route 10.1.0.0 255.255.0.0,route 10.2.0.0 255.255.0.0,\
     route-ipv6 fd01::/64,dhcp-option DNS 10.0.0.53,dhcp-option DOMAIN a.example,ping 10";

#[test]
fn an_update_replaces_the_sets_that_it_names() {
    let mut pull = plain();
    pull.reply(BASE).unwrap();
    assert_eq!(pull.update("route 10.3.0.0 255.255.0.0,push-continuation 2"), Ok(Progress::Partial));
    assert_eq!(pull.pushed().unwrap().routes.len(), 3, "half an update changes nothing");
    let rest = "route 10.4.0.0 255.255.0.0,-dhcp-option,?foo bar,?tun-mtu 1400,-?block-outside-dns";
    assert_eq!(pull.update(rest), Ok(Progress::Updated));
    let config = pull.net_config().unwrap();
    assert_eq!(config.routes, prefixes(&["10.8.0.5/32", "fd01::/64", "10.3.0.0/16", "10.4.0.0/16"]));
    assert_eq!((config.dns, config.mtu), (DnsConfig::default(), 1400));
    assert_eq!(pull.pushed().unwrap().ping, Some(Duration::from_secs(10)));
    assert_eq!(pull.update("redirect-gateway def1,keepalive 5 20"), Ok(Progress::Updated));
    assert!(pull.net_config().unwrap().routes.contains(&prefix("0.0.0.0/0")));
    assert_eq!(pull.pushed().unwrap().ping_restart, Some(Duration::from_secs(20)));
    assert_eq!(pull.update("-redirect-private"), Ok(Progress::Updated));
    assert!(!pull.net_config().unwrap().routes.contains(&prefix("0.0.0.0/0")));
}

#[test]
fn an_update_counts_as_a_whole_or_not_at_all() {
    let mut pull = plain();
    assert_eq!(pull.update("route 10.3.0.0"), Ok(Progress::Unchanged), "nothing is there to be updated");
    pull.reply(BASE).unwrap();
    let before = pull.pushed().cloned();
    for (text, error) in [
        (
            "route 10.3.0.0,cipher AES-256-GCM",
            PushError::NotUpdatable { option: "cipher AES-256-GCM".into() },
        ),
        ("-route,-peer-id", PushError::NotUpdatable { option: "peer-id".into() }),
        ("-route,-ifconfig", PushError::NoAddress),
    ] {
        assert_eq!(pull.update(text), Err(error));
        assert_eq!(pull.pushed(), before.as_ref());
    }
    assert_eq!(pull.update("route 127.0.0.0 255.0.0.0"), Ok(Progress::Updated));
    assert_eq!(pull.pushed().unwrap().routes, prefixes(&["fd01::/64"]));
    assert_eq!(pull.counts().0, 1);
}

#[test]
fn options_that_mean_nothing_here_are_told_once() {
    let mut pull = plain();
    pull.reply("ifconfig 10.8.0.6 10.8.0.5,made-up 1,made-up 1,topology mesh,verb 3,dhcp-option WINS x")
        .unwrap();
    assert_eq!(notices(&mut pull), [NoticeKind::Unknown, NoticeKind::Malformed]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_a_push_panic(
        options in proptest::collection::vec(
            ("(-?\\??)(route|dns server 1 address|ifconfig|redirect-gateway|tun-mtu|push-continuation|dhcp-option DNS|x)",
             "[ 0-9a-f.:/\"\\\\]{0,24}"), 0..12),
    ) {
        let text = options.iter().map(|(name, rest)| format!("{name} {rest}")).collect::<Vec<_>>().join(",");
        let mut pull = plain();
        let _ = pull.reply(&text);
        let _ = pull.reply("ifconfig 10.8.0.6 10.8.0.5");
        let _ = pull.update(&text);
        let _ = pull.net_config();
    }
}
