//! What every role needs to run: configuration, actors and supervision, TLS, telemetry, back-off.
