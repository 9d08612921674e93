//! A tunnel that answers packets itself, as one with a name server inside does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_path::{Engine, EngineOptions, Network, Phase, PingKind};
use adit_tunnel::{
    Deadline, Dropped, Event, HostPacket, NetConfig, NetInput, Outbox, PeerStatus, Tunnel, TunnelError,
};

/// Longer than any machine takes; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("never")]
struct Never;

impl TunnelError for Never {
    fn class(&self) -> &'static str {
        "test.never"
    }

    fn evidence(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Turns every echo request around. It has no link and no timer, so that nothing else wakes the driver.
struct Mirror {
    events: Vec<Event<Never>>,
}

impl Tunnel for Mirror {
    type Command = ();
    type Error = Never;

    fn handle_net(&mut self, _: Instant, _: NetInput<'_>, _: &mut Outbox) -> Result<(), Dropped> {
        Ok(())
    }

    fn handle_packet(&mut self, _: Instant, packet: HostPacket<'_>, out: &mut Outbox) -> Result<(), Dropped> {
        let mut echo = packet.bytes().to_vec();
        let (from, to) = (echo[12..16].to_vec(), echo[16..20].to_vec());
        echo[12..16].copy_from_slice(&to);
        echo[16..20].copy_from_slice(&from);
        // The type falls from 8 to 0, and the one's complement of the sum rises by as much (RFC 1624).
        echo[20] = 0;
        let sum = u32::from(u16::from_be_bytes([echo[22], echo[23]])) + 0x0800;
        echo[22..24].copy_from_slice(&((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes());
        let mut slot = out.host.reserve(echo.len()).ok_or(Dropped::Backpressure)?;
        slot.copy_from_slice(&echo);
        slot.commit(echo.len());
        Ok(())
    }

    fn handle_timeout(&mut self, _: Instant, _: &mut Outbox) {}

    fn handle_command(&mut self, _: Instant, (): (), _: &mut Outbox) {}

    fn poll_timeout(&self) -> Option<Deadline> {
        None
    }

    fn poll_event(&mut self) -> Option<Event<Never>> {
        self.events.pop()
    }

    fn peers(&self, _: Instant) -> Vec<PeerStatus> {
        Vec::new()
    }
}

#[test]
fn what_a_tunnel_answers_itself_arrives_although_nothing_else_happens() {
    let config = NetConfig {
        addresses: vec!["10.9.0.1/32".parse().unwrap()],
        routes: vec!["10.9.0.0/24".parse().unwrap()],
        mtu: 1280,
        ..NetConfig::default()
    };
    let mirror = Mirror { events: vec![Event::Up, Event::Configured(config)] };
    let engine = Engine::start(mirror, EngineOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        engine.status().wait_for(|status| status.phase == Phase::Up).await.unwrap();
        for _ in 0..20 {
            let kind = PingKind::Icmp { size: 16, timeout: PATIENCE };
            let pong = engine.ping(IpAddr::from([10, 9, 0, 2]), kind).await.unwrap();
            assert!(pong.rtt < PATIENCE / 2, "{:?}", pong.rtt);
        }
    });
}
