//! Ways to a target: TLS end to end, and a tunnel with an agent that is played here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postern_core::node::{GATEWAYS_NAME, NodeRole};
use postern_core::target::{Route, TlsMode};
use postern_protocols::tunnel::{self, ALPN, Hello, Open, OpenStatus, Opened, Welcome};
use postern_runtime::pki::{NodeCredential, self_signed_listener};
use postern_runtime::tls;
use prost::Message;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream};
use secrecy::ExposeSecret as _;

use crate::house::{House, credential, db, principal, spawn};

async fn read<M: Message + Default>(from: &mut RecvStream) -> M {
    let mut frame = BytesMut::zeroed(4);
    from.read_exact(&mut frame).await.unwrap();
    let size = usize::try_from(u32::from_be_bytes(frame[..4].try_into().unwrap())).unwrap();
    frame.resize(4 + size, 0);
    from.read_exact(&mut frame[4..]).await.unwrap();
    tunnel::decode(&mut frame).unwrap().unwrap()
}

/// Dials as an agent whose certificate is of pool `lab`, and says that it is of `pool`.
async fn dial(house: &House, role: NodeRole, pool: &str) -> Result<(Endpoint, Connection, Welcome), String> {
    let credential = credential(&house.authority, role, (role == NodeRole::Agent).then_some("lab"));
    dial_with(house, &credential, pool).await
}

async fn dial_with(
    house: &House,
    credential: &NodeCredential,
    pool: &str,
) -> Result<(Endpoint, Connection, Welcome), String> {
    let tls = tls::client_mtls(credential, &[ALPN]).unwrap();
    let client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::client(local).unwrap();
    let connection = endpoint.connect_with(client, house.gateway.tunnel_addr.unwrap(), GATEWAYS_NAME).unwrap();
    let connection = connection.await.map_err(|error| error.to_string())?;
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
    let hello = Hello { version: 1, agent: "one".into(), pool: pool.into(), version_min: 0, ..Hello::default() };
    send.write_all(&tunnel::frame(&hello).unwrap()).await.map_err(|error| error.to_string())?;
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.map_err(|error| error.to_string())?;
    let size = usize::try_from(u32::from_be_bytes(length)).unwrap();
    let mut frame = BytesMut::from(&length[..]);
    frame.resize(4 + size, 0);
    recv.read_exact(&mut frame[4..]).await.map_err(|error| error.to_string())?;
    // The control stream stays open as long as the connection does.
    let held = connection.clone();
    spawn(async move {
        held.closed().await;
        drop((send, recv));
    });
    Ok((endpoint, connection, tunnel::decode(&mut frame).unwrap().unwrap()))
}

/// Opens what it is asked for, or says `status`.
async fn serve(connection: Connection, status: OpenStatus) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let open: Open = read(&mut recv).await;
        let opened = Opened { status: status.into(), detail: "played".into() };
        send.write_all(&tunnel::frame(&opened).unwrap()).await.unwrap();
        if status == OpenStatus::Connected {
            let mut tcp = tokio::net::TcpStream::connect(&open.address).await.unwrap();
            spawn(async move {
                let mut stream = tokio::io::join(recv, send);
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut tcp).await;
            });
        }
    }
}

/// Routes the target through the pool, and waits until the gateway has heard of it: without an agent nobody is let in then.
async fn through_the_tunnel(house: &House) {
    house.apply(|snapshot| {
        let target = snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap();
        target.value.route = Route::AgentPool("lab".parse().unwrap());
    });
    let token = house.token(&principal("ada", "readers"), 600);
    while house.try_connect("db", &token).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_tunnel() {
    let house = House::with("", |config| config.tunnel_listen = Some("127.0.0.1:0".parse().unwrap())).await;
    through_the_tunnel(&house).await;
    let token = house.token(&principal("ada", "readers"), 600);
    let (state, message) = db(&house.try_connect("db", &token).await.err().unwrap());
    assert_eq!(state, "57P03", "{message}");
    assert!(message.contains("agent"), "{message}");

    let (_endpoint, connection, welcome) = dial(&house, NodeRole::Agent, "lab").await.unwrap();
    assert_eq!((welcome.gateway.as_str(), welcome.refused.as_str()), ("one", ""));
    spawn(serve(connection.clone(), OpenStatus::Connected));
    while house.gateway.tunnel_count() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let client = house.connect("readers").await;
    let count: i64 = client.sql.query_one("SELECT count(*) FROM items", &[]).await.unwrap().get(0);
    assert_eq!(count, 20);
    // The tunnel breaks under a session: it is told, and the gateway knows.
    connection.close(1_u32.into(), b"lost");
    let error = client.sql.simple_query("SELECT 1").await.unwrap_err();
    if let Some(told) = error.as_db_error() {
        assert_eq!(told.code().code(), "57P03", "{told}");
    }
    while house.gateway.tunnel_count() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_certificate_is_revoked_loses_its_tunnel() {
    let house = House::with("", |config| config.tunnel_listen = Some("127.0.0.1:0".parse().unwrap())).await;
    let agent = credential(&house.authority, NodeRole::Agent, Some("lab"));
    let (_endpoint, connection, _) = dial_with(&house, &agent, "lab").await.unwrap();
    let serial = agent.serial().unwrap();
    house.apply(|snapshot| snapshot.revoked = Arc::new([serial].into()));
    let why = tokio::time::timeout(Duration::from_secs(5), connection.closed()).await.unwrap().to_string();
    assert!(why.contains("revoked"), "{why}");
    // And does not come back.
    assert!(dial_with(&house, &agent, "lab").await.is_err());
    let other = credential(&house.authority, NodeRole::Agent, Some("lab"));
    dial_with(&house, &other, "lab").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_refuses_and_agents_that_lie() {
    let house = House::with("", |config| config.tunnel_listen = Some("127.0.0.1:0".parse().unwrap())).await;
    through_the_tunnel(&house).await;
    // Another pool than its certificate's, or no agent at all.
    let (_endpoint, _connection, welcome) = dial(&house, NodeRole::Agent, "vault").await.unwrap();
    assert!(welcome.refused.contains("certificate"), "{welcome:?}");
    assert!(dial(&house, NodeRole::Gateway, "lab").await.is_err());
    assert_eq!(house.gateway.tunnel_count(), 0);

    let (_endpoint, connection, _) = dial(&house, NodeRole::Agent, "lab").await.unwrap();
    spawn(serve(connection, OpenStatus::Forbidden));
    while house.gateway.tunnel_count() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let token = house.token(&principal("ada", "readers"), 600);
    let (state, message) = db(&house.try_connect("db", &token).await.err().unwrap());
    assert_eq!(state, "57P03", "{message}");
    assert!(!message.contains("played"), "the agent's words are for the log: {message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_to_the_target_as_its_mode_says() {
    let (certificate, key) = self_signed_listener(&["db.example".to_owned()]).unwrap();
    let (other, _) = self_signed_listener(&["db.example".to_owned()]).unwrap();
    let house = House::with_tls(&certificate, key.expose_secret()).await;
    let token = house.token(&principal("ada", "readers"), 600);
    let (good, wrong) = (Some(certificate), Some(other));
    for (mode, ca, name, works) in [
        (TlsMode::Require, None, None, true),
        (TlsMode::VerifyCa, good.clone(), None, true),
        (TlsMode::VerifyCa, wrong.clone(), None, false),
        (TlsMode::VerifyFull, good.clone(), Some("db.example"), true),
        (TlsMode::VerifyFull, good.clone(), None, false),
        (TlsMode::VerifyFull, wrong, Some("db.example"), false),
    ] {
        house.apply(|snapshot| {
            let target = snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap();
            target.value.tls.mode = mode;
            target.value.tls.ca_pem.clone_from(&ca);
            target.value.tls.server_name = name.map(str::to_owned);
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        match house.try_connect("db", &token).await {
            Ok(client) => {
                assert!(works, "{mode:?} {name:?} let a wrong certificate pass");
                let row = client.sql.query_one("SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]);
                // Whether this principal may ask or not, the session is there.
                drop(row.await);
            }
            Err(error) => {
                assert!(!works, "{mode:?} {name:?}: {error:?}");
                assert_eq!(db(&error).0, "08004");
            }
        }
    }
    // A server without TLS, where it is demanded.
    let plain = House::start().await;
    plain.apply(|snapshot| {
        snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap().value.tls.mode = TlsMode::Require;
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let token = plain.token(&principal("ada", "readers"), 600);
    assert_eq!(db(&plain.try_connect("db", &token).await.err().unwrap()).0, "08004");
}
