//! Puts data keys under the current key. What they seal stays as it is, and is not opened.

use postern_core::secret::{Sealed, SecretBytes};

use super::{KeyError, Keyring, Provider, transit};

impl Keyring {
    /// Proves that the current key works, and gives its newest version: none of a key without versions.
    ///
    /// # Errors
    /// When it does not work.
    pub async fn newest_version(&self) -> Result<Option<u32>, KeyError> {
        self.current.probe().await
    }

    /// Whether `sealed` is under the current key, and its version `newest`.
    #[must_use]
    pub fn is_current(&self, sealed: &Sealed, newest: Option<u32>) -> bool {
        sealed.kek_id == self.current_id()
            && newest
                .is_none_or(|newest| transit::version(&sealed.wrapped_key).is_some_and(|version| version >= newest))
    }

    /// The data key of each, wrapped by the current key; the rest as it was. Each is proved to unwrap again.
    pub async fn rewrap_all(&self, items: &[(&str, &Sealed)]) -> Vec<Result<Sealed, KeyError>> {
        let mut done: Vec<Result<Sealed, KeyError>> = Vec::with_capacity(items.len());
        let keys = self.data_keys(items).await;
        for ((of, sealed), key) in items.iter().zip(&keys) {
            done.push(match key {
                Ok(key) => self.current.wrap(of, key).await.map(|wrapped_key| Sealed {
                    kek_id: self.current_id().to_owned(),
                    wrapped_key,
                    nonce: sealed.nonce.clone(),
                    ciphertext: sealed.ciphertext.clone(),
                }),
                Err(error) => Err(error.clone()),
            });
        }
        self.prove(items, &keys, &mut done).await;
        done
    }

    /// What does not unwrap to the same key again would be lost once the old wrapping is gone.
    async fn prove(
        &self,
        items: &[(&str, &Sealed)],
        keys: &[Result<SecretBytes, KeyError>],
        done: &mut [Result<Sealed, KeyError>],
    ) {
        let made: Vec<(usize, &str, Sealed)> = items
            .iter()
            .zip(done.iter())
            .enumerate()
            .filter_map(|(place, ((of, _), sealed))| Some((place, *of, sealed.as_ref().ok()?.clone())))
            .collect();
        if let Provider::Vault(kek) = &self.current {
            made.iter().for_each(|(_, of, sealed)| kek.forget(of, &sealed.wrapped_key));
        }
        let asked: Vec<(&str, &Sealed)> = made.iter().map(|(_, of, sealed)| (*of, sealed)).collect();
        for ((place, of, sealed), again) in made.iter().zip(self.data_keys(&asked).await) {
            let fault = match (again, keys.get(*place)) {
                (Ok(again), Some(Ok(key))) if again == *key => continue,
                (Err(error), _) => error,
                _ => KeyError::Open { of: (*of).to_owned(), kek: sealed.kek_id.clone() },
            };
            if let Some(slot) = done.get_mut(*place) {
                *slot = Err(fault);
            }
        }
    }
}
