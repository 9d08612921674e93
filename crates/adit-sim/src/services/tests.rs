use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

async fn query(text: &str) -> Result<Rows, ClientError> {
    let (client, server) = duplex(4096);
    let served = tokio::spawn(async move { postgres(server, &Database::default()).await });
    let rows = postgres_query(client, "app", text).await;
    served.await.unwrap().unwrap();
    rows
}

#[tokio::test]
async fn the_database_counts_its_orders() {
    let rows = query("SELECT  count(*)\nFROM orders;").await.unwrap();
    assert_eq!((rows.columns, rows.rows), (vec!["count".to_owned()], vec![vec![Some("42".to_owned())]]));
    let rows = query("select * from orders limit 2").await.unwrap();
    assert_eq!(rows.columns, ["id", "item"]);
    assert_eq!(rows.rows.len(), 2);
    assert_eq!(query("select current_user").await.unwrap().rows, [[Some("app".to_owned())]]);
}

#[tokio::test]
async fn a_query_that_it_does_not_know_is_an_error_and_not_the_end() {
    let error = query("drop table orders").await.unwrap_err();
    assert!(error.to_string().contains("does not know: drop table orders"), "{error}");
}

#[tokio::test]
async fn an_ssl_request_is_answered_with_n() {
    let (mut client, server) = duplex(64);
    let served = tokio::spawn(async move { postgres(server, &Database::default()).await });
    client.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'N');
    drop(client);
    assert!(served.await.unwrap().is_err(), "a connection that ends before its start-up message is broken");
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_connection() {
    let (mut client, server) = duplex(64);
    client.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    assert!(postgres(server, &Database::default()).await.is_err());
}

async fn get(path: &str) -> (u16, Vec<u8>) {
    let (client, server) = duplex(4096);
    let served = tokio::spawn(async move { http(server, "api.internal").await });
    let answer = http_get(client, "api.internal", path).await.unwrap();
    served.await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn the_web_server_serves_its_pages_and_blobs() {
    assert_eq!(get("/healthz").await, (200, b"ok\n".to_vec()));
    assert_eq!(get("/none").await.0, 404);
    assert_eq!(get("/blob?bytes=x").await.0, 400);
    let (status, blob) = get("/blob?bytes=200000").await;
    assert_eq!((status, blob.len()), (200, 200_000));
    assert!(blob.iter().enumerate().all(|(n, byte)| u64::from(*byte) == n as u64 * 167 % 251));
}

#[tokio::test]
async fn a_connection_serves_several_requests() {
    let (mut client, server) = duplex(4096);
    let served = tokio::spawn(async move { http(server, "api.internal").await });
    client
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert!(text.ends_with("\r\n\r\n"), "HEAD has no body: {text}");
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_request_gets_400() {
    let (mut client, server) = duplex(4096);
    client.write_all(b"\0\x01\x02 nonsense\r\n\r\n").await.unwrap();
    http(server, "x").await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
}

fn ask(zone: &Zone, name: &str, record: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record));
    Message::from_vec(&zone.answer(&message.to_vec().unwrap()).unwrap()).unwrap()
}

#[test]
fn the_zone_answers_for_its_names_and_no_others() {
    let address = IpAddr::from([10, 77, 0, 5]);
    let zone = Zone::new("internal").name("db.internal", [address]);
    assert_eq!(ask(&zone, "DB.internal.", RecordType::A).answers.len(), 1);
    let empty = ask(&zone, "db.internal.", RecordType::AAAA);
    assert_eq!((empty.answers.len(), empty.metadata.response_code), (0, ResponseCode::NoError));
    assert_eq!(ask(&zone, "x.internal.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(ask(&zone, "example.com.", RecordType::A).metadata.response_code, ResponseCode::Refused);
    assert_eq!(ask(&zone, "5.0.77.10.in-addr.arpa.", RecordType::PTR).answers.len(), 1);
    assert_eq!(
        ask(&zone, "6.0.77.10.in-addr.arpa.", RecordType::PTR).metadata.response_code,
        ResponseCode::NXDomain
    );
    assert!(zone.answer(b"junk").is_none());
}

#[tokio::test]
async fn questions_over_tcp_stand_behind_their_length() {
    let zone = Zone::new("internal").name("db.internal", [IpAddr::from([10, 77, 0, 5])]);
    let (mut client, server) = duplex(4096);
    let served = tokio::spawn(async move { dns_tcp(server, &zone).await });
    let mut message = Message::new(9, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("db.internal.").unwrap(), RecordType::A));
    let message = message.to_vec().unwrap();
    client.write_u16(message.len() as u16).await.unwrap();
    client.write_all(&message).await.unwrap();
    let mut answer = vec![0; usize::from(client.read_u16().await.unwrap())];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    drop(client);
    served.await.unwrap().unwrap();
}
