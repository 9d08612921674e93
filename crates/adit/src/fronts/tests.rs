//! Fronts against the scripted network, over real sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_path::{ConnectFailure, Network};
use adit_sim::{Host, ScriptedNetwork, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::task::AbortHandle;

use super::*;

fn network() -> ScriptedNetwork {
    let http = Service::serve(|stream| async move {
        let _broken = serve_http(stream).await;
    });
    ScriptedNetwork::new()
        .host(
            [10, 77, 0, 5],
            Host::new()
                .tcp(7, Service::Echo)
                .tcp(9, Service::Silent)
                .tcp(13, Service::Unreachable(3, 13))
                .tcp(80, http)
                .tcp(81, Service::Say(b"not http\r\n\r\n".to_vec()))
                .tcp(82, Service::ResetAfterAccept)
                .udp_echo(7),
        )
        .name("api.internal", [IpAddr::from([10, 77, 0, 5])])
        .name("nothing.internal", [])
}

/// A small HTTP server that says what it got.
async fn serve_http(stream: adit_path::FlowStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut body = Vec::new();
    if let Some(length) = head.to_lowercase().split("content-length: ").nth(1) {
        body.resize(length.lines().next().unwrap_or_default().parse().unwrap_or(0), 0);
        stream.read_exact(&mut body).await?;
    } else if head.to_lowercase().contains("chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            body.push(stream.read_u8().await?);
        }
    }
    let text = format!("{head}{}", String::from_utf8_lossy(&body));
    let answer = if head.starts_with("GET /coded") {
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            .to_owned()
    } else if head.starts_with("GET /close") {
        "HTTP/1.0 200 OK\r\n\r\nuntil the end".to_owned()
    } else if head.starts_with("HEAD") {
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_owned()
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Something that runs until the test ends.
struct Running(SocketAddr, AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.1.abort();
    }
}

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn proxy(network: &ScriptedNetwork, credentials: Option<&str>) -> Running {
    let credentials = credentials.map(|text| Credentials::parse(text).unwrap());
    let proxy = Proxy::bind(LOOPBACK, credentials).await.unwrap().budget(Duration::from_millis(400));
    let address = proxy.address().unwrap();
    Running(address, tokio::spawn(proxy.run(Arc::new(network.clone()))).abort_handle())
}

async fn forward(network: &ScriptedNetwork, spec: &str) -> Running {
    let forward = Forward::bind(spec.parse().unwrap()).await.unwrap();
    let address = forward.spec().listen;
    Running(address, tokio::spawn(forward.run(Arc::new(network.clone()))).abort_handle())
}

/// Sends bytes, half-closes, and reads to the end.
async fn ask(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

async fn ask_text(address: SocketAddr, text: &str) -> String {
    String::from_utf8(ask(address, text.as_bytes()).await).unwrap()
}

fn socks_request(target: &str) -> Vec<u8> {
    let target = Target::parse(target, None).unwrap();
    let mut bytes = vec![5, 1, 0, 5, 1, 0];
    match target.host {
        adit_path::Destination::Address(IpAddr::V4(ip)) => {
            bytes.push(1);
            bytes.extend(ip.octets());
        }
        adit_path::Destination::Address(IpAddr::V6(ip)) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        adit_path::Destination::Name(name) => {
            bytes.extend([3, name.len() as u8]);
            bytes.extend(name.as_bytes());
        }
    }
    bytes.extend(target.port.to_be_bytes());
    bytes
}

#[tokio::test]
async fn socks_connects_and_early_data_is_not_lost() {
    let network = network();
    let proxy = proxy(&network, None).await;
    for target in ["api.internal:7", "api:7", "10.77.0.5:7"] {
        let mut bytes = socks_request(target);
        bytes.extend(b"early data");
        let answer = ask(proxy.0, &bytes).await;
        assert_eq!(answer[..6], [5, 0, 5, 0, 0, 1], "{target}");
        assert_eq!(&answer[12..], b"early data", "{target}");
    }
}

#[tokio::test]
async fn socks_replies_say_what_happened() {
    let network = network();
    let proxy = proxy(&network, None).await;
    for (target, reply) in [
        ("10.77.0.5:8", 5),
        ("10.77.0.5:9", 4),
        ("10.77.0.5:13", 2),
        ("missing.internal:80", 4),
        ("nothing.internal:80", 4),
    ] {
        let answer = ask(proxy.0, &socks_request(target)).await;
        assert_eq!(answer, [5, 0, 5, reply, 0, 1, 0, 0, 0, 0, 0, 0], "{target}");
    }
    network.take_down("wg.silent");
    for target in ["10.77.0.5:7", "api.internal:7"] {
        assert_eq!(ask(proxy.0, &socks_request(target)).await[3], 3, "{target}");
    }
    assert_eq!(ask(proxy.0, &[5, 1, 0, 5, 2, 0, 1]).await[3], 7, "BIND");
    assert_eq!(ask(proxy.0, &[5, 1, 0, 5, 1, 0, 9]).await[3], 8, "an unknown address type");
    assert_eq!(ask(proxy.0, &[5, 1, 2]).await, [5, 0xff], "only a password is offered");
    assert!(ask(proxy.0, &[4, 1, 0, 80, 10, 77, 0, 5, 0]).await.is_empty(), "SOCKS4");
}

#[tokio::test]
async fn a_reset_of_the_target_reaches_the_client_of_the_proxy() {
    let network = network();
    let proxy = proxy(&network, None).await;
    let mut stream = TcpStream::connect(proxy.0).await.unwrap();
    stream.write_all(&socks_request("10.77.0.5:82")).await.unwrap();
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn socks_wants_the_right_password() {
    let network = network();
    let proxy = proxy(&network, Some("me:secret")).await;
    assert_eq!(ask(proxy.0, &[5, 1, 0]).await, [5, 0xff]);
    assert_eq!(ask(proxy.0, b"\x05\x01\x02\x01\x02me\x05wrong").await, [5, 2, 1, 1]);
    let mut bytes = b"\x05\x01\x02\x01\x02me\x06secret".to_vec();
    bytes.extend(&socks_request("api.internal:7")[3..]);
    assert_eq!(ask(proxy.0, &bytes).await[..6], [5, 2, 1, 0, 5, 0]);
}

#[tokio::test]
async fn public_destinations_of_a_proxy_are_reached_by_the_machine() {
    let network = network();
    let proxy = proxy(&network, None).await;
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = [0; 4];
            stream.read_exact(&mut text).await.unwrap();
            stream.write_all(b"outside ").await.unwrap();
            stream.write_all(&text).await.unwrap();
        }
    });
    let mut bytes = socks_request(&format!("localhost:{port}"));
    bytes.extend(b"echo");
    assert_eq!(&ask(proxy.0, &bytes).await[12..], b"outside echo");
    let answer = ask_text(proxy.0, &format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\necho")).await;
    assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\noutside echo");
    assert!(network.connects().is_empty(), "nothing public went inside");
}

#[tokio::test]
async fn datagrams_are_associated_for_as_long_as_the_connection_lives() {
    let network = network();
    let proxy = proxy(&network, None).await;
    let outside = UdpSocket::bind(LOOPBACK).await.unwrap();
    let mut control = TcpStream::connect(proxy.0).await.unwrap();
    control.write_all(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0").await.unwrap();
    let mut answer = [0; 12];
    control.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..6], [5, 0, 5, 0, 0, 1]);
    let relay = SocketAddr::from((
        [answer[6], answer[7], answer[8], answer[9]],
        u16::from_be_bytes([answer[10], answer[11]]),
    ));
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.connect(relay).await.unwrap();
    let mut buffer = [0; 100];

    let from_inside = b"\0\0\0\x01\x0a\x4d\0\x05\0\x07ping";
    for header in [&b"\0\0\0\x01\x0a\x4d\0\x05\0\x07"[..], b"\0\0\0\x03\x0capi.internal\0\x07"] {
        socket.send(&[header, b"ping"].concat()).await.unwrap();
        let len = socket.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], from_inside);
    }
    // Another socket of the same host is not the client, and a fragment is not served.
    let stranger = UdpSocket::bind(LOOPBACK).await.unwrap();
    stranger.send_to(from_inside, relay).await.unwrap();
    socket.send(b"\0\0\x01\x01\x0a\x4d\0\x05\0\x07lost").await.unwrap();
    // A public destination is sent to by the machine, and answers with its own address.
    let port = outside.local_addr().unwrap().port().to_be_bytes();
    let header = [&b"\0\0\0\x01\x7f\0\0\x01"[..], &port].concat();
    socket.send(&[&header[..], b"out"].concat()).await.unwrap();
    let (len, from) = outside.recv_from(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..len], b"out");
    outside.send_to(b"back", from).await.unwrap();
    let len = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..len], [&header[..], b"back"].concat());

    drop(control);
    // The relay's port is closed soon; then the kernel answers with ICMP.
    while socket.send(from_inside).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn http_connect_tunnels_and_says_why_not() {
    let network = network();
    let proxy = proxy(&network, None).await;
    let answer = ask_text(proxy.0, "CONNECT api.internal:7 HTTP/1.1\r\nHost: x\r\n\r\nearly data").await;
    assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\nearly data");
    for (request, status, error, sentence) in [
        (
            "CONNECT api.internal:8 HTTP/1.1",
            "502",
            "connection_refused",
            "api.internal:8: the target refused",
        ),
        ("CONNECT api.internal:9 HTTP/1.1", "504", "connection_timeout", "did not answer within"),
        ("CONNECT missing.internal:9 HTTP/1.1", "502", "dns_error", "does not exist"),
        ("CONNECT api.internal:13 HTTP/1.1", "502", "destination_ip_unroutable", "ICMP type 3 code 13"),
        ("GET http://api.internal:81/ HTTP/1.1", "502", "connection_terminated", "not HTTP"),
        ("GET http://api.internal:82/ HTTP/1.1", "502", "connection_terminated", ""),
        ("GET / HTTP/1.1", "400", "http_request_error", "this is a proxy"),
        ("GET https://api.internal/ HTTP/1.1", "400", "http_request_error", "use CONNECT"),
        ("\x01\x02\x03", "400", "http_request_error", "does not parse"),
    ] {
        let answer = ask_text(proxy.0, &format!("{request}\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.contains(&format!("Proxy-Status: adit; error={error}\r\n")), "{request}: {answer}");
        assert!(answer.contains(sentence) && answer.ends_with('\n'), "{request}: {answer}");
    }
    network.take_down("wg.silent");
    let answer = ask_text(proxy.0, "GET http://api.internal/ HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("destination_unavailable"), "{answer}");
}

#[tokio::test]
async fn plain_requests_share_a_connection_however_their_bodies_end() {
    let network = network();
    let proxy = proxy(&network, None).await;
    let mut stream = BufReader::new(TcpStream::connect(proxy.0).await.unwrap());
    let requests = "POST http://api.internal/one HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
         POST http://api.internal/two HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n\
         HEAD http://api.internal/three HTTP/1.1\r\n\r\n\
         GET http://api.internal/coded HTTP/1.1\r\n\r\n\
         GET http://api.internal/close HTTP/1.1\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let (first, rest) =
        answers.split_once("\r\nConnection: close\r\n\r\nabc").expect("the first body arrived");
    assert!(first.contains("POST /one HTTP/1.1\r\nHost: api.internal\r\n"), "{first}");
    assert!(rest.contains("\r\n\r\n3\r\ndef\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n"), "{rest}");
    assert!(
        rest.contains("Content-Length: 1000\r\nVia: 1.1 adit\r\nConnection: keep-alive\r\n\r\nHTTP/1.1 100"),
        "{rest}"
    );
    assert!(rest.contains("5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n"), "{rest}");
    assert!(rest.ends_with("Via: 1.1 adit\r\nConnection: close\r\n\r\nuntil the end"), "{rest}");
}

#[tokio::test]
async fn the_http_proxy_wants_the_right_password() {
    let network = network();
    let proxy = proxy(&network, Some("me:secret")).await;
    let answer = ask_text(proxy.0, "GET http://api.internal/ HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 407 ") && answer.contains("Proxy-Authenticate: Basic"), "{answer}");
    let right = "GET http://api.internal/ HTTP/1.1\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n";
    let answer = ask_text(proxy.0, right).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("bWU6c2VjcmV0"), "{answer}");
}

#[tokio::test]
async fn forwards_relay_and_refuse_with_a_reset() {
    let network = network();
    let echo = forward(&network, "0:api.internal:7").await;
    assert_eq!(ask(echo.0, b"through the forward").await, b"through the forward");
    let refused = forward(&network, "0:api.internal:8").await;
    let mut stream = TcpStream::connect(refused.0).await.unwrap();
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn datagram_forwards_keep_their_clients_apart() {
    let network = network();
    let forward = forward(&network, "0:api.internal:7/udp").await;
    let mut clients = Vec::new();
    for number in 0..4_u8 {
        let client = UdpSocket::bind(LOOPBACK).await.unwrap();
        client.connect(forward.0).await.unwrap();
        client.send(&[number]).await.unwrap();
        clients.push(client);
    }
    for (number, client) in clients.iter().enumerate() {
        let mut buffer = [0; 8];
        assert_eq!((client.recv(&mut buffer).await.unwrap(), buffer[0]), (1, number as u8));
    }
}

#[tokio::test]
async fn a_server_of_this_machine_answers_peers_as_it_answers_here() {
    let network = network();
    let server = TcpListener::bind(LOOPBACK).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let own = OwnPorts::default();
    let spec = ExposeSpec { port, protocol: Protocol::Tcp };
    let expose = Expose::bind(&network, spec, own.clone()).await.unwrap();
    let _running = Running(LOOPBACK, tokio::spawn(expose.run()).abort_handle());
    let peer = SocketAddr::from(([10, 77, 0, 9], 5000));

    let served = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        stream.write_all(b"welcome").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    });
    let mut stream = network.connect_from(peer, port).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!((text.as_str(), served.await.unwrap().as_str()), ("welcome", "hello"));

    // The server is gone now.
    assert_eq!(network.connect_from(peer, port).await.unwrap_err(), ConnectFailure::Refused);
    own.add(Protocol::Tcp, port);
    let again = Expose::bind(&network, spec, own).await;
    assert!(matches!(again, Err(FrontError::OwnPort(_))));
}

#[tokio::test]
async fn a_port_that_became_adits_own_is_no_longer_exposed() {
    let network = network();
    let server = TcpListener::bind(LOOPBACK).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let own = OwnPorts::default();
    let expose =
        Expose::bind(&network, ExposeSpec { port, protocol: Protocol::Tcp }, own.clone()).await.unwrap();
    let _running = Running(LOOPBACK, tokio::spawn(expose.run()).abort_handle());
    own.add(Protocol::Tcp, port);
    let peer = SocketAddr::from(([10, 77, 0, 9], 5000));
    assert_eq!(network.connect_from(peer, port).await.unwrap_err(), ConnectFailure::Refused);
}

#[tokio::test]
async fn netcat_relays_and_ends_with_the_target() {
    let network: Arc<dyn Network> = Arc::new(network());
    let dialer = Dialer::new(network, Duration::from_millis(400));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let target = Target::parse("api.internal:7", None).unwrap();
    netcat(&dialer, &target, &b"over and back"[..], writer).await.unwrap();
    let mut back = String::new();
    std::io::Read::read_to_string(&mut reader, &mut back).unwrap();
    assert_eq!(back, "over and back");
    let target = Target::parse("api.internal:8", None).unwrap();
    let refused = netcat(&dialer, &target, std::io::empty(), std::io::sink()).await;
    assert!(matches!(refused, Err(NcError::Dial(DialFailure::Connect(ConnectFailure::Refused)))));
}

#[tokio::test]
async fn curl_reaches_a_private_server_in_every_way() {
    let network = network();
    let proxy = proxy(&network, None).await;
    let socks = format!("socks5h://{}", proxy.0);
    let http = format!("http://{}", proxy.0);
    for arguments in [
        &["-x", &socks][..],
        &["-x", &http],
        &["-x", &http, "--proxytunnel"],
        &["-x", &http, "--data-binary", "posted"],
    ] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--max-time", "10"]).args(arguments).arg("http://api.internal/page");
        let output = match curl.output().await {
            Ok(output) => output,
            Err(error) => return eprintln!("SKIPPED: curl cannot be run: {error}"),
        };
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(" /page HTTP/1.1\r\nHost: api.internal\r\n"), "{arguments:?}: {text}{errors}");
        assert_eq!(text.ends_with("posted"), arguments.contains(&"posted"), "{arguments:?}: {text}");
    }
}

#[test]
fn the_environment_of_a_proxied_program_names_the_proxy() {
    let variables = environment("127.0.0.1:1055".parse().unwrap(), None);
    let get = |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
    assert_eq!(get("ALL_PROXY"), Some("socks5h://127.0.0.1:1055"));
    assert_eq!(get("https_proxy"), Some("http://127.0.0.1:1055"));
    assert!(get("NO_PROXY").is_some_and(|value| value.contains("localhost")));
    let credentials = Credentials::parse("u:p@").unwrap();
    let variables = environment("127.0.0.1:1055".parse().unwrap(), Some(&credentials));
    assert_eq!(variables[0].1, "socks5h://u:p%40@127.0.0.1:1055");
}
