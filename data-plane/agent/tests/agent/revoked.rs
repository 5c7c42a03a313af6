//! A gateway whose certificate was revoked, which is taken over perhaps and does not go by itself.

use postern_core::signed::{self, Purpose};
use postern_protocols::tunnel::{RevokedGateways, SignedRevocations, to_agent};
use postern_runtime::telemetry;

use super::played::{Played, Taken, agent, counted, node};
use super::*;

/// Of these gateways, as `signer` says it.
fn list(signer: &NodeCredential, revoked: &[&Played]) -> SignedRevocations {
    let bytes = |serial: String| {
        (0..serial.len() / 2).map(|at| u8::from_str_radix(&serial[at * 2..at * 2 + 2], 16).unwrap()).collect()
    };
    let serials = revoked.iter().map(|played| bytes(played.credential.serial().unwrap())).collect();
    let payload = RevokedGateways { serials }.encode_to_vec();
    let signer = signer.signer().unwrap();
    let signature = signer.sign(&signed::message(Purpose::RevokedGateways, &payload));
    SignedRevocations { payload, signature, certificate: signer.certificate_der().to_vec() }
}

async fn revoke(by: &mut Taken, list: SignedRevocations) {
    by.tell(to_agent::Message::Revoked(list)).await;
}

/// One of two gateways was revoked: it says nothing of it, the other passes on what the control plane says. The agent lets go at once, by
/// either carrier, and does not come back. Not so when a gateway says it of another by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_gateway_is_left_whatever_it_says() {
    let _ = telemetry::install_metrics();
    for tcp_only in [false, true] {
        let authority = Arc::new(Authority::create("test").unwrap());
        let control = node(&authority, NodeRole::Control, "c1");
        let (honest, bad) = match tcp_only {
            false => (Played::new(&authority, "g1").await, Played::new(&authority, "g2").await),
            true => (Played::without_udp(&authority, "g1").await, Played::without_udp(&authority, "g2").await),
        };
        let places = [honest.address(), bad.address()];
        let tcp: Vec<String> = places.iter().flat_map(|place| place.tcp.clone()).collect();
        let quic: Vec<String> = places.iter().flat_map(|place| place.quic.clone()).collect();
        let config = match tcp_only {
            false => serde_json::json!({"gateways": quic, "tcp_gateways": []}),
            true => {
                serde_json::json!({"gateways": ["127.0.0.1:9", "127.0.0.1:10"], "tcp_gateways": tcp, "udp_probe": "1h"})
            }
        };
        let _agent = agent(&authority, config).await;
        let (mut well, mut bad_tunnel) = (honest.take().await, bad.take().await);
        let target = TcpListener::bind(local()).await.unwrap();
        let address = target.local_addr().unwrap().to_string();
        // The bad one would have the honest one revoked; and then says that nobody is.
        revoke(&mut bad_tunnel, list(&bad.credential, &[&honest])).await;
        counted("postern_agent_revocations_refused_total", if tcp_only { 2.0 } else { 1.0 }).await;
        assert_eq!(well.open(&address).await.2.status(), OpenStatus::Connected);
        let (_send, mut recv, _) = bad_tunnel.open(&address).await;
        revoke(&mut well, list(&control, &[&bad])).await;
        tokio::time::timeout(LIMIT, bad_tunnel.link.closed()).await.unwrap();
        assert!(recv.read_exact(&mut [0; 1]).await.is_err(), "what was open through it goes on");
        counted("postern_agent_tunnels_lost_total", if tcp_only { 2.0 } else { 1.0 }).await;
        // It comes again, and gets no further than its certificate.
        let again = async {
            let link = if tcp_only { bad.try_link_tcp().await? } else { bad.try_link_quic().await? };
            link.accept().await.map(drop).map_err(|error| error.to_string())
        };
        let again = tokio::time::timeout(LIMIT, again).await.unwrap();
        assert!(again.as_ref().is_err_and(|why| tcp_only || why.contains("Revoked")), "{again:?}");
        assert_eq!(well.open(&address).await.2.status(), OpenStatus::Connected);
    }
}
