//! A login in a browser by SAML: the control plane's page sends it to the identity provider, and shows a code at the end.

use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use zeroize::Zeroizing;

use super::{Subject, challenge, secret};
use crate::failure::Failure;
use crate::output;

const LOGIN_CODE: &str = "urn:postern:token-type:login-code";
/// A line longer than that is no code.
const MAX_CODE: u64 = 256;

/// Tells where to log in, and asks for the code that the browser shows.
pub(super) async fn log_in(issuer: &str, web: &str) -> Result<Subject, Failure> {
    let web = web.trim_end_matches('/');
    if !web.starts_with("https://") {
        return Err(Failure::usage("--web: must be https://HOST[:PORT], the control plane's web.public_url"));
    }
    let verifier = secret();
    let challenge = challenge(&verifier);
    output::note(format!(
        "Open this in a browser:\n\n    {web}/saml/{issuer}/login?challenge={challenge}\n\nThen type the code that it shows:"
    ));
    let code = code().await?;
    let token = SecretString::from(code.trim().to_owned());
    if token.expose_secret().is_empty() {
        return Err(Failure::failed("no code was typed"));
    }
    Ok(Subject { token, kind: LOGIN_CODE, verifier: Some(verifier) })
}

async fn code() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    let mut input = BufReader::new(tokio::io::stdin().take(MAX_CODE));
    input.read_line(&mut line).await.map_err(|error| Failure::failed(format!("cannot read the code: {error}")))?;
    Ok(line)
}
