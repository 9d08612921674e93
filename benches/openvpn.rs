//! The data channel of OpenVPN: one packet sealed and opened again in memory at 64, 512 and 1400 bytes, per cipher: the
//! raw AEAD of ring (floor), `DataKeys`, and the whole path with its framing into a send queue and back.

#![expect(clippy::unwrap_used, reason = "a bench fails loudly")]

use std::net::SocketAddr;
use std::time::Instant;

use adit_openvpn::data::{Channel, DataKeys, Inner, KeyMaterial, Parameters, Role, Shape, Suite};
use adit_openvpn::{Algorithm, Cipher, Compression, MssFix, Transport};
use adit_tunnel::{HostPacket, LinkId, Outbox};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn packet(size: usize) -> Vec<u8> {
    let mut packet = vec![0xab; size];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet
}

fn raw(group: &mut Group<'_>, cipher: Cipher, size: usize) {
    let (algorithm, length) = match cipher {
        Cipher::Aes128Gcm => (&AES_128_GCM, 16),
        Cipher::Aes256Gcm => (&AES_256_GCM, 32),
        Cipher::ChaCha20Poly1305 => (&CHACHA20_POLY1305, 32),
        // ring has no CBC.
        Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => return,
    };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32][..length]).unwrap());
    let mut buffer = packet(size);
    let mut counter = 0u64;
    group.bench_function(BenchmarkId::new("raw", size), |bench| {
        bench.iter(|| {
            counter += 1;
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&counter.to_le_bytes());
            let tag = key
                .seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from([0; 8]),
                    &mut buffer,
                )
                .unwrap();
            key.open_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from([0; 8]),
                tag,
                &mut buffer,
                0..,
            )
            .unwrap()
            .len()
        });
    });
}

fn keys(suite: Suite) -> [DataKeys; 2] {
    [Role::Client, Role::Server].map(|role| {
        let parameters = Parameters { role, key_id: 0, peer_id: Some(1), replay_window: 64 };
        DataKeys::new(suite, &KeyMaterial::new(zeroize::Zeroizing::new([7; 256])), &parameters)
    })
}

fn sealed(group: &mut Group<'_>, suite: Suite, size: usize) {
    let [mut client, mut server] = keys(suite);
    let mut slot = vec![0; client.sealed_len(size)];
    let head = client.head();
    slot[head..head + size].copy_from_slice(&packet(size));
    group.bench_function(BenchmarkId::new("keys", size), |bench| {
        bench.iter(|| {
            // What was opened lies where it is sealed from.
            let length = client.seal(&mut slot, size).unwrap();
            server.open(&mut slot[..length]).unwrap().len()
        });
    });
}

fn path(group: &mut Group<'_>, suite: Suite, size: usize) {
    let [mut client, mut server] = keys(suite);
    let shape = Shape {
        suite,
        peer_id: true,
        transport: Transport::Udp,
        outside_v6: false,
        compression: Compression::Lzo,
        fragment: None,
        mssfix: MssFix::Default,
        tun_mtu: 1500,
        envelope: 0,
    };
    let (mut near, mut far) = (Channel::new(shape), Channel::new(shape));
    let to: SocketAddr = "192.0.2.1:1194".parse().unwrap();
    let mut out = Outbox::default();
    let mut wire = vec![0; 2048];
    let (packet, now) = (packet(size), Instant::now());
    group.bench_function(BenchmarkId::new("path", size), |bench| {
        bench.iter(|| {
            near.send(&mut client, HostPacket::new(&packet), (LinkId(0), Some(to)), &mut out.net).unwrap();
            out.net.drain(|batch| {
                // What the kernel would do: one copy.
                let message = &mut wire[..batch.data.len()];
                message.copy_from_slice(batch.data);
                let Ok(Inner::Packet(packet)) = far.receive(now, &mut server, message) else { panic!() };
                let mut slot = out.host.reserve(packet.len()).unwrap();
                slot.copy_from_slice(packet);
                slot.commit(packet.len());
            });
            out.host.drain(|packet| assert_eq!(packet.bytes().len(), size));
        });
    });
}

fn data_channel(criterion: &mut Criterion) {
    let ciphers = [
        (Cipher::Aes128Gcm, false),
        (Cipher::Aes256Gcm, false),
        (Cipher::Aes256Gcm, true),
        (Cipher::ChaCha20Poly1305, false),
        (Cipher::Aes128Cbc, false),
        (Cipher::Aes256Cbc, false),
    ];
    for (cipher, epoch) in ciphers {
        let suite = Suite { cipher, auth: Algorithm::Sha256, epoch };
        let layout = if epoch { " with epochs" } else { "" };
        let mut group = criterion.benchmark_group(format!("openvpn {cipher}{layout}"));
        for size in [64, 512, 1400] {
            group.throughput(Throughput::Bytes(size as u64));
            raw(&mut group, cipher, size);
            sealed(&mut group, suite, size);
            path(&mut group, suite, size);
        }
        group.finish();
    }
}

criterion_group!(benches, data_channel);
criterion_main!(benches);
