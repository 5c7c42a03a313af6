//! Where the control plane is and who we are to it: from arguments, the environment, and the folder of a `postern dev`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postern_runtime::jwt::ClientKey;
use postern_runtime::pki::NodeCredential;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::args::ConnectionArgs;
use crate::credentials;
use crate::failure::Failure;

/// Tokens and certificates are far smaller.
const MAX_FILE: u64 = 1 << 20;

/// What `postern dev` writes for clients, as `client.json` in its data folder. Paths are relative to that folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// `https://HOST:PORT`
    pub(crate) server: String,
    /// Folder of the administrator's certificate.
    pub(crate) credential: PathBuf,
    /// The cluster's certificate authority, PEM.
    pub(crate) ca: PathBuf,
}

/// All that a connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `https://HOST:PORT`, or several with commas between.
    pub(crate) server: String,
    pub(crate) ca_pem: String,
    /// A token goes before a certificate: who has one means to act by it.
    pub(crate) token: Option<SecretString>,
    pub(crate) credential: Option<NodeCredential>,
    /// By which a token that is bound to it is shown.
    pub(crate) key: Option<Arc<ClientKey>>,
    /// The token is that of the login that is kept here.
    pub(crate) logged_in: bool,
}

impl Profile {
    /// Its file in `data_dir`.
    pub(crate) fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("client.json")
    }

    fn load(data_dir: &Path) -> Result<Self, Failure> {
        let path = Self::path(data_dir);
        let text = read(&path).map_err(|failure| {
            Failure::failed(format!("{failure}; has `postern dev` run on {}?", data_dir.display()))
        })?;
        serde_json::from_str(&text).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
    }
}

impl Settings {
    /// Where the control plane is: any of these.
    pub(crate) fn servers(&self) -> Vec<&str> {
        servers(&self.server)
    }

    /// Arguments and environment go before the profile.
    pub(crate) fn resolve(args: &ConnectionArgs) -> Result<Self, Failure> {
        let key = args.dpop_key.as_deref().map(client_key).transpose()?;
        let named = args.server.is_some() || args.data_dir.is_some() || args.credential.is_some();
        if !named && let Some(own) = OwnProfile::load()? {
            let ca_pem = args.ca.as_deref().map_or(Ok(own.ca_pem), read)?;
            return Ok(Self {
                server: own.server,
                ca_pem,
                token: token(args)?,
                key,
                credential: None,
                logged_in: false,
            });
        }
        let profile = Located::find(args)?;
        let server = args.server.clone().or_else(|| profile.as_ref().map(|located| located.profile.server.clone()));
        let Some(server) = server else {
            return Err(Failure::usage(
                "which control plane? give --server and --ca (or POSTERN_SERVER and POSTERN_CA), log in once by `postern login`, or give --data-dir of a `postern dev`",
            ));
        };
        let token = token(args)?;
        let dir = args.credential.clone().or_else(|| profile.as_ref().map(|located| located.at(|it| &it.credential)));
        let credential = match dir {
            Some(dir) if token.is_none() => Some(
                NodeCredential::load(&dir)
                    .map_err(|error| Failure::failed(format!("credential {}: {error}", dir.display())))?,
            ),
            _ => None,
        };
        let ca_pem = authority_of(args, profile.as_ref())?;
        Ok(Self { server, ca_pem, token, key, credential, logged_in: false })
    }

    /// By what one acts, in a word.
    pub(crate) const fn by(&self) -> &'static str {
        match (&self.token, &self.credential) {
            (Some(_), _) if self.logged_in => "login",
            (Some(_), _) => "token",
            (None, Some(_)) => "certificate",
            (None, None) => "nothing",
        }
    }
}

impl Settings {
    /// As [`Settings::resolve`]; where no token is given and no certificate, by the login that is kept here, if there is one. It goes before the
    /// certificate of a `postern dev`: who has logged in means to be that one.
    pub(crate) async fn acting(args: &ConnectionArgs) -> Result<Self, Failure> {
        Self::acting_for(args, Duration::ZERO).await
    }

    /// The same, with a login's token that is good for so long, where it can be renewed.
    pub(crate) async fn acting_for(args: &ConnectionArgs, at_least: Duration) -> Result<Self, Failure> {
        let mut settings = Self::resolve(args)?;
        if settings.token.is_none()
            && args.credential.is_none()
            && let Some(token) = credentials::current(&settings, at_least).await?
        {
            (settings.token, settings.credential, settings.logged_in) = (Some(token), None, true);
        }
        Ok(settings)
    }

    /// Makes this the control plane that is meant when none is named, after a login that named one.
    pub(crate) fn remember(&self, args: &ConnectionArgs) -> Result<(), Failure> {
        if args.server.is_none() || args.data_dir.is_some() {
            return Ok(());
        }
        let mut own = OwnProfile::load()?.unwrap_or_default();
        if own.server != self.server || own.ca_pem != self.ca_pem {
            (own.server, own.ca_pem) = (self.server.clone(), self.ca_pem.clone());
            let text = serde_json::to_string_pretty(&own).map_err(|error| Failure::failed(error.to_string()))?;
            credentials::write_own(&OwnProfile::path()?, &text)?;
        }
        Ok(())
    }
}

/// What this user's own folder says: `profile.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnProfile {
    /// As in [`Settings`].
    server: String,
    /// The cluster's certificate authority.
    ca_pem: String,
}

impl OwnProfile {
    fn path() -> Result<PathBuf, Failure> {
        Ok(credentials::home()?.join("profile.json"))
    }

    /// None where there is none, or no home.
    pub(crate) fn load() -> Result<Option<Self>, Failure> {
        let Ok(path) = Self::path() else { return Ok(None) };
        if !path.exists() {
            return Ok(None);
        }
        serde_json::from_str(&read(&path)?)
            .map(Some)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
    }
}

/// The addresses in a list with commas between: one at least.
pub(crate) fn servers(list: &str) -> Vec<&str> {
    let all: Vec<&str> = list.split(',').map(str::trim).filter(|server| !server.is_empty()).collect();
    if all.is_empty() { vec![list] } else { all }
}

/// A profile and the folder that its paths are relative to.
struct Located<'a> {
    data_dir: &'a Path,
    profile: Profile,
}

impl<'a> Located<'a> {
    /// The profile of `--data-dir`, unless the other arguments say all that it could.
    fn find(args: &'a ConnectionArgs) -> Result<Option<Self>, Failure> {
        let complete = args.server.is_some() && (args.ca.is_some() || args.credential.is_some());
        match &args.data_dir {
            Some(data_dir) if !complete => Ok(Some(Self { data_dir, profile: Profile::load(data_dir)? })),
            _ => Ok(None),
        }
    }

    fn at(&self, pick: fn(&Profile) -> &PathBuf) -> PathBuf {
        self.data_dir.join(pick(&self.profile))
    }
}

/// The cluster's certificate authority, PEM, as it is known here: nothing is asked of the control plane.
pub(crate) fn authority(args: &ConnectionArgs) -> Result<String, Failure> {
    let known = args.ca.is_some() || args.credential.is_some();
    let profile = if known { None } else { Located::find(args)? };
    authority_of(args, profile.as_ref())
}

fn authority_of(args: &ConnectionArgs, profile: Option<&Located<'_>>) -> Result<String, Failure> {
    match (&args.ca, &args.credential, profile) {
        (Some(file), _, _) => read(file),
        (None, Some(dir), _) => read(&dir.join("ca.crt")),
        (None, None, Some(located)) => read(&located.at(|profile| &profile.ca)),
        (None, None, None) => Err(Failure::usage("whom to trust? give --ca (or POSTERN_CA), a PEM file")),
    }
}

/// The token in the file that is named, or in the environment.
pub(crate) fn token(args: &ConnectionArgs) -> Result<Option<SecretString>, Failure> {
    let text = match &args.token_file {
        Some(path) => read(path)?,
        None => match std::env::var("POSTERN_TOKEN") {
            Ok(text) => text,
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => return Err(Failure::usage("POSTERN_TOKEN is not UTF-8")),
        },
    };
    let text = text.trim();
    if text.is_empty() {
        return match &args.token_file {
            Some(path) => Err(Failure::failed(format!("{} is empty", path.display()))),
            None => Ok(None),
        };
    }
    Ok(Some(SecretString::from(text.to_owned())))
}

/// A client's private key.
pub(crate) fn client_key(file: &Path) -> Result<Arc<ClientKey>, Failure> {
    let key = ClientKey::from_pem(&SecretString::from(read(file)?));
    key.map(Arc::new).map_err(|error| Failure::failed(format!("{}: {error}", file.display())))
}

/// A small text file.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let cannot = |why: String| Failure::failed(format!("cannot read {}: {why}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(|error| cannot(error.to_string()))?;
    file.take(MAX_FILE.saturating_add(1)).read_to_string(&mut text).map_err(|error| cannot(error.to_string()))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(cannot("it is larger than 1 MiB".to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let file = dir.join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    fn profile(dir: &Path) -> ConnectionArgs {
        write(dir, "client.json", r#"{"server": "https://127.0.0.1:1", "credential": "admin", "ca": "ca.crt"}"#);
        write(dir, "ca.crt", "of the profile");
        let token_file = write(dir, "token", " a-token\n");
        ConnectionArgs { data_dir: Some(dir.to_owned()), token_file: Some(token_file), ..Default::default() }
    }

    #[test]
    fn a_data_folder_says_all_and_a_token_goes_before_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::resolve(&profile(dir.path())).unwrap();
        assert_eq!((settings.server.as_str(), settings.ca_pem.as_str()), ("https://127.0.0.1:1", "of the profile"));
        // The folder admin/ is not even there.
        assert!(settings.credential.is_none());
        assert!(!format!("{settings:?}").contains("a-token"));
    }

    #[test]
    fn one_server_or_several() {
        assert_eq!(servers("https://a:1"), ["https://a:1"]);
        assert_eq!(servers("https://a:1, https://b:2,"), ["https://a:1", "https://b:2"]);
        assert_eq!(servers(""), [""]);
    }

    #[test]
    fn arguments_go_before_the_profile() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = profile(dir.path());
        args.server = Some("https://other:2".into());
        assert_eq!(Settings::resolve(&args).unwrap().ca_pem, "of the profile");
        args.ca = Some(write(dir.path(), "other.crt", "given"));
        let settings = Settings::resolve(&args).unwrap();
        assert_eq!((settings.server.as_str(), settings.ca_pem.as_str()), ("https://other:2", "given"));
        assert_eq!(authority(&args).unwrap(), "given");
        args.token_file = Some(write(dir.path(), "empty", "\n"));
        assert!(Settings::resolve(&args).unwrap_err().to_string().ends_with("empty is empty"));
    }

    #[test]
    fn a_profile_of_another_form_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let args = profile(dir.path());
        write(dir.path(), "client.json", r#"{"server": "x", "surprise": 1}"#);
        assert!(Settings::resolve(&args).is_err());
    }
}
