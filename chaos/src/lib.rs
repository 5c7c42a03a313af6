//! Harness and tests of the whole system on real parts: servers, clients, SIGKILL.
