//! `postern login`: in a browser, by SAML.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_proto::admin::v1::ExchangeTokenRequest;
use postern_runtime::clock;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use zeroize::Zeroizing;

use crate::args::ConnectionArgs;
use crate::client::{Client, Settings, refused};
use crate::failure::Failure;
use crate::output;
use crate::token_args::LoginArgs;

const LOGIN_CODE: &str = "urn:postern:token-type:login-code";
/// A line longer than that is no code.
const MAX_CODE: u64 = 256;

/// Tells where to log in, asks for the code that the browser shows, and prints the session token and nothing else.
pub(crate) async fn saml(args: &LoginArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let (issuer, web) = (&args.saml, args.web.trim_end_matches('/'));
    if !web.starts_with("https://") {
        return Err(Failure::usage("--web: must be https://HOST[:PORT], the control plane's web.public_url"));
    }
    let mut settings = Settings::resolve(connection)?;
    // Whoever logs in is nobody yet.
    (settings.token, settings.credential) = (None, None);
    let client = Client::connect(&settings).await?;
    let verifier = verifier();
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    output::note(format!(
        "Open this in a browser:\n\n    {web}/saml/{issuer}/login?challenge={challenge}\n\nThen type the code that it shows:"
    ));
    let code = code().await?;
    let request = ExchangeTokenRequest {
        subject_token: code.trim().to_owned(),
        subject_token_type: LOGIN_CODE.to_owned(),
        code_verifier: verifier.to_string(),
        targets: args.target.clone(),
        ttl_seconds: u32::try_from(args.ttl.as_secs()).unwrap_or(u32::MAX),
        ..Default::default()
    };
    let answer = client.tokens().exchange_token(request).await.map_err(refused)?.into_inner();
    output::line(answer.token)
}

/// RFC 7636, section 4.1: what only this process knows.
fn verifier() -> Zeroizing<String> {
    let bytes = Zeroizing::new([clock::random_u128().to_be_bytes(), clock::random_u128().to_be_bytes()].concat());
    Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes))
}

async fn code() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    let mut input = BufReader::new(tokio::io::stdin().take(MAX_CODE));
    input.read_line(&mut line).await.map_err(|error| Failure::failed(format!("cannot read the code: {error}")))?;
    if line.trim().is_empty() { Err(Failure::usage("no code was typed")) } else { Ok(line) }
}
