//! The edge agent: dials gateways over QUIC, opens only the addresses that its own configuration allows.
