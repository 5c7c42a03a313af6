//! The `postern` binary: the roles, `dev`, and the client commands over the public gRPC API.
