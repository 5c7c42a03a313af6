//! `postern`, as a build of the next release is to its peers: it speaks a version more, and what it says has fields that this one does not
//! know; as a member of the control plane it knows a feature level more. For tests of an upgrade under way.

use std::process::ExitCode;

fn main() -> ExitCode {
    postern_gateway::speak_as_the_next();
    postern_server::know_as_the_next();
    postern::main()
}
