use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_tailscale::netmap::{
    Addresses, DerpAddress, DerpCertificate, FilterChange, NodeId, RegionId, Resolver, State, Update,
};

use super::*;

const NOW: SystemTime = UNIX_EPOCH;

fn now() -> SystemTime {
    NOW + Duration::from_secs(1_795_507_200)
}

fn read(json: &str) -> Update {
    let message: MapResponse<'_> = serde_json::from_str(json).unwrap();
    update(&message, now(), now())
}

fn key(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn node(id: u8, more: &str) -> String {
    let key = key(char::from(b'0' + id));
    format!(
        r#"{{"ID":{id},"StableID":"n{id}","Name":"Host{id}.Tail.Net.","Key":"nodekey:{key}","Addresses":["100.64.0.{id}/32"]{more}}}"#
    )
}

#[test]
fn null_lists_escapes_and_unknown_fields_are_ordinary() {
    let message = format!(
        r#"{{"Node":{},"Peers":[{},null,{}],"DERPMap":{{"Regions":{{"1":null,"2":{{"RegionID":2,"RegionCode":"a","Nodes":null}}}}}},
        "UserProfiles":[{{"ID":1,"DisplayName":"R\u0026D"}}],"Health":null,"DNSConfig":{{"Resolvers":[{{"Addr":"https://dns.nextdns.io/x?a=1\u0026b"}}],"Routes":{{"corp.internal.":[{{"Addr":"10.0.0.53"}}],"0.100.in-addr.arpa":null}},"Domains":["Tail.Net"],"Proxied":true}},
        "Invented":{{"a":[1]}},"PacketFilters":null,"PingRequest":{{"URL":"https://x/y"}},"SSHPolicy":null}}"#,
        node(
            1,
            r#","AllowedIPs":null,"Tags":["tag:ci"],"CapMap":{"a":[false],"b":null},"MachineAuthorized":true"#
        ),
        node(
            2,
            r#","AllowedIPs":["10.88.0.0/24","100.64.0.2/32"],"Endpoints":null,"Hostinfo":{"OS":"linux"},"KeyExpiry":"0001-01-01T00:00:00Z""#
        ),
        node(3, r#","AllowedIPs":[],"DERP":"127.3.3.40:9","Online":null,"NewThing":7,"Addresses2":null"#),
    );
    let update = read(&message);
    let me = update.node.unwrap();
    assert_eq!((me.name.as_str(), me.authorized, me.expired), ("host1.tail.net", true, false));
    assert_eq!(me.allowed_ips, me.addresses);
    assert_eq!(me.capabilities, ["a", "b"]);
    let [second, third] = update.peers.full.as_slice() else { panic!("{:?}", update.peers.full) };
    assert_eq!(second.allowed_ips.len(), 2);
    assert_eq!((second.expired, second.online), (false, None));
    assert!(third.allowed_ips.is_empty());
    assert_eq!((third.home_derp, third.online), (RegionId(9), None));
    let regions = update.derp.unwrap().regions.unwrap();
    assert_eq!(regions.keys().collect::<Vec<_>>(), [&RegionId(2)]);
    assert!(regions[&RegionId(2)].nodes.is_empty());
    let dns = update.dns.unwrap();
    assert_eq!(dns.resolvers, [Resolver::Other("https://dns.nextdns.io/x?a=1&b".to_owned())]);
    assert_eq!(
        dns.routes.iter().map(|route| route.suffix.as_str()).collect::<Vec<_>>(),
        ["0.100.in-addr.arpa", "corp.internal"]
    );
    assert_eq!((dns.search, dns.magic), (vec!["tail.net".to_owned()], true));
    assert!(update.filter.is_empty());
}

#[test]
fn a_part_that_cannot_be_read_costs_only_itself() {
    let message = format!(
        r#"{{"Peers":[{},{{"ID":"x"}},{{"ID":7,"Key":"nodekey:zz"}},17,{}],"PacketFilter":[{{"SrcIPs":["nonsense"],"DstPorts":[{{"IP":"*","Ports":{{"First":0,"Last":65535}}}}]}},{{"SrcIPs":7}},{{"SrcIPs":["*"],"DstPorts":[{{"IP":"*","Bits":null,"Ports":{{"First":22,"Last":22}}}}],"IPProto":[6,999]}}]}}"#,
        node(2, r#","Addresses":["100.64.0.2/32","x/9"]"#).replace(r#""Addresses":["100.64.0.2/32"],"#, ""),
        node(3, ""),
    );
    let update = read(&message);
    assert_eq!(update.peers.full.iter().map(|peer| peer.id).collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
    assert_eq!(update.peers.full[0].addresses.len(), 1);
    let [FilterChange::Set(name, rules)] = update.filter.as_slice() else { panic!("{:?}", update.filter) };
    assert_eq!((name.as_str(), rules.len()), ("base", 1));
    assert_eq!(
        (rules[0].sources.as_slice(), rules[0].protocols.as_slice()),
        (&[Addresses::Any][..], &[6][..])
    );
}

#[test]
fn an_empty_list_of_peers_removes_nobody_and_an_empty_filter_lets_nobody_in() {
    let mut state = State::default();
    state.apply(read(&format!(r#"{{"PeersChanged":[{}]}}"#, node(2, ""))));
    state.apply(read(r#"{"Peers":[],"PacketFilter":[]}"#));
    assert_eq!(state.peers.len(), 1);
    assert_eq!((state.rules().count(), state.filter.is_some()), (0, true));
    state.apply(read(r#"{"PeersRemoved":[2]}"#));
    assert!(state.peers.is_empty());
}

#[test]
fn deltas_name_nodes_by_numbers_in_text() {
    let new = key('7');
    let update = read(&format!(
        r#"{{"OnlineChange":{{"2":true,"x":false}},"PeerSeenChange":{{"2":false,"3":true}},"PeersChangedPatch":[{{"NodeID":2,"DERPRegion":5,"Key":"nodekey:{new}","Endpoints":["192.0.2.1:1","bad"],"KeyExpiry":"2020-01-01T00:00:00Z"}}]}}"#
    ));
    assert_eq!(update.peers.online, [(NodeId(2), true)]);
    assert_eq!(update.peers.seen, [(NodeId(2), None), (NodeId(3), Some(now()))]);
    let patch = &update.peers.patches[0];
    assert_eq!((patch.home_derp, patch.expired), (Some(RegionId(5)), Some(true)));
    assert_eq!(patch.endpoints.as_ref().unwrap().len(), 1);
    assert_eq!(patch.online, None);
}

#[test]
fn chunks_of_the_filter_are_cleared_before_they_are_set() {
    let rule = r#"{"SrcIPs":["*"],"DstPorts":[{"IP":"100.64.0.1","Ports":{"First":80,"Last":80}}]}"#;
    let update = read(&format!(r#"{{"PacketFilters":{{"a":[{rule}],"*":null,"b":null}}}}"#));
    assert!(matches!(
        update.filter.as_slice(),
        [FilterChange::Clear, FilterChange::Set(a, _), FilterChange::Remove(b)] if a == "a" && b == "b"
    ));
}

#[test]
fn relays_are_read_with_their_ports_pins_and_families() {
    let pin = key('a');
    let update = read(&format!(
        r#"{{"DERPMap":{{"HomeParams":{{"RegionScore":{{"1":0.5,"2":-1}}}},"Regions":{{"1":{{"RegionID":1,"Nodes":[
            {{"Name":"1a","HostName":"Derp.Example","IPv4":"192.0.2.1","IPv6":"none"}},
            {{"Name":"1b","HostName":"192.0.2.2","CertName":"sha256-raw:{pin}","STUNPort":-1,"DERPPort":8443}},
            {{"Name":"1c","HostName":"x","CertName":"sha256-raw:zz","InsecureForTests":true}},
            {{"Name":"1d","HostName":"y","InsecureForTests":true,"STUNTestIP":"127.0.0.1","STUNOnly":true}}]}},"70000":{{}}}}}}}}"#
    ));
    let derp = update.derp.unwrap();
    assert_eq!(derp.scores.unwrap().len(), 1);
    let regions = derp.regions.unwrap();
    assert_eq!(regions.len(), 1);
    let [a, b, c, d] = regions[&RegionId(1)].nodes.as_slice() else { panic!() };
    assert_eq!((a.host.as_str(), a.derp_port, a.stun_port), ("derp.example", 443, Some(3478)));
    assert_eq!((a.v4, a.v6), (DerpAddress::Fixed("192.0.2.1".parse().unwrap()), DerpAddress::Off));
    assert_eq!((b.derp_port, b.stun_port), (8443, None));
    assert_eq!(b.certificate, DerpCertificate::Sha256([0xaa; 32]));
    assert_eq!(c.certificate, DerpCertificate::Name("sha256-raw:zz".to_owned()));
    assert_eq!((&d.certificate, d.stun_only), (&DerpCertificate::Unchecked, true));
}

#[test]
fn records_of_the_tailnet_are_addresses_of_their_type() {
    let update = read(
        r#"{"DNSConfig":{"Nameservers":["10.0.0.1"],"ExtraRecords":[{"Name":"x.net.","Type":"A","Value":"100.64.0.99"},{"Name":"y","Value":"fd00::1"},{"Name":"z","Type":"A","Value":"fd00::1"},{"Name":"t","Type":"TXT","Value":"hello"},null]}}"#,
    );
    let dns = update.dns.unwrap();
    assert_eq!(dns.records.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(), ["x.net", "y"]);
    assert_eq!(dns.resolvers.len(), 1);
}

#[test]
fn tailnet_lock_is_on_with_a_head_that_is_not_disabled() {
    for (json, on) in [
        (r#"{"TKAInfo":{"Head":"abc"}}"#, Some(true)),
        (r#"{"TKAInfo":{"Head":"abc","Disabled":true}}"#, Some(false)),
        (r#"{"TKAInfo":{"Head":""}}"#, Some(false)),
        (r#"{"TKAInfo":null}"#, None),
        ("{}", None),
    ] {
        assert_eq!(read(json).lock.map(|lock| lock.on), on, "{json}");
    }
}

#[test]
fn requests_have_the_names_of_the_protocol_and_leave_zeros_out() {
    let hostinfo =
        Hostinfo { hostname: "h".into(), os: "linux".into(), userspace: true, ..Hostinfo::default() };
    let request = RegisterRequest {
        version: 130,
        node_key: "nodekey:1".into(),
        old_node_key: "nodekey:0".into(),
        auth: Some(AuthInfo { auth_key: "tskey-auth-canary" }),
        expiry: None,
        followup: "",
        hostinfo: &hostinfo,
        ephemeral: true,
    };
    let json = serde_json::to_value(&request).unwrap();
    assert_eq!(json["Auth"]["AuthKey"], "tskey-auth-canary");
    assert_eq!((&json["Version"], &json["Ephemeral"]), (&130.into(), &true.into()));
    assert!(json.get("Followup").is_none() && json.get("Expiry").is_none());
    assert_eq!(json["Hostinfo"]["OS"], "linux");
    assert!(json["Hostinfo"].get("RoutableIPs").is_none());
    assert!(!format!("{request:?}").contains("canary"));
    let request = MapRequest {
        version: 130,
        compress: "zstd",
        keep_alive: true,
        node_key: "a".into(),
        disco_key: "b".into(),
        stream: true,
        hostinfo: &hostinfo,
        endpoints: vec!["192.0.2.1:1".into()],
        endpoint_types: vec![2],
        omit_peers: false,
    };
    let json = serde_json::to_value(&request).unwrap();
    assert_eq!(
        (&json["Stream"], &json["KeepAlive"], &json["Compress"]),
        (&true.into(), &true.into(), &"zstd".into())
    );
    assert!(json.get("OmitPeers").is_none());
    assert_eq!(json["EndpointTypes"], serde_json::json!([2]));
}
