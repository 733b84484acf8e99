//! PKCS#11 as far as it is needed: finding a token and a key on it, logging in, agreeing on a secret (`CKM_ECDH1_DERIVE`).

use crate::{hpke::POINT_LEN, uri::Uri};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
    types::AuthPin,
};
use p256::PublicKey;
use zeroize::{Zeroize, Zeroizing};

/// `CKA_EC_PARAMS` of P-256: the DER of 1.2.840.10045.3.1.7.
const P256_PARAMS: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const SECRET_LEN: usize = 32;

/// Why a token did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// The library does not load.
    #[error("{path}: not a PKCS#11 library that loads here: {why}")]
    Module {
        /// Library.
        path: String,
        /// Why.
        why: Error,
    },
    /// None matches.
    #[error("no {wanted} is there ({path} sees {there}): plug it in, or correct the URI")]
    NoToken {
        /// What was looked for.
        wanted: String,
        /// Library.
        path: String,
        /// What there is.
        there: String,
    },
    /// More than one matches.
    #[error("{wanted} could be any of {there}: name one by `serial` or `slot-id` in the URI")]
    SeveralTokens {
        /// What was looked for.
        wanted: String,
        /// What matches.
        there: String,
    },
    /// The key is not on the token.
    #[error("token `{token}` holds no private EC key with {wanted}")]
    NoKey {
        /// Label of the token.
        token: String,
        /// What was looked for.
        wanted: String,
    },
    /// More than one key matches.
    #[error("token `{token}` holds {count} private EC keys with {wanted}: name one by `id` in the URI")]
    SeveralKeys {
        /// Label of the token.
        token: String,
        /// What was looked for.
        wanted: String,
        /// How many match.
        count: usize,
    },
    /// Wrong PIN.
    #[error("token `{token}` refuses the PIN: it is wrong{left}")]
    WrongPin {
        /// Label of the token.
        token: String,
        /// How many tries are left, if the token says so.
        left: &'static str,
    },
    /// Too many wrong PINs.
    #[error("the PIN of token `{token}` is locked: its security officer can set a new one")]
    Locked {
        /// Label of the token.
        token: String,
    },
    /// The key may not be used so.
    #[error("the key on token `{token}` may not agree on secrets: it was made without the right to derive (CKA_DERIVE)")]
    NotForDeriving {
        /// Label of the token.
        token: String,
    },
    /// The token computes something that is no secret of a P-256 key.
    #[error("token `{token}` agreed on {len} bytes, not {SECRET_LEN}: its key is not on P-256")]
    Secret {
        /// Label of the token.
        token: String,
        /// Bytes.
        len: usize,
    },
    /// Anything else.
    #[error("token `{token}`: {why}")]
    Device {
        /// Label of the token.
        token: String,
        /// What it said.
        why: Error,
    },
}

/// A token's library.
pub(crate) struct Module {
    pkcs11: Pkcs11,
    path: String,
}

/// A token that is there.
pub(crate) struct Token<'a> {
    module: &'a Module,
    slot: Slot,
    /// What it says of itself.
    pub(crate) info: TokenInfo,
}

/// A public key on a token.
pub(crate) struct TokenKey {
    /// `CKA_LABEL`.
    pub(crate) label: String,
    /// `CKA_ID`.
    pub(crate) id: Vec<u8>,
    /// The point.
    pub(crate) key: PublicKey,
}

impl Module {
    /// Loads and initializes the library at `path`. It runs in this process: the path must come from who owns the key.
    pub(crate) fn load(path: &str) -> Result<Self, TokenError> {
        let failed = |why| TokenError::Module { path: path.into(), why };
        let pkcs11 = Pkcs11::new(path).map_err(failed)?;
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(failed)?;
        Ok(Self { pkcs11, path: path.into() })
    }

    /// The tokens that are there, initialized.
    pub(crate) fn tokens(&self) -> Result<Vec<Token<'_>>, TokenError> {
        let failed = |why| TokenError::Module { path: self.path.clone(), why };
        let slots = self.pkcs11.get_slots_with_token().map_err(failed)?;
        // A token that is pulled out in between is no error.
        let tokens = slots.into_iter().filter_map(|slot| {
            let info = self.pkcs11.get_token_info(slot).ok()?;
            info.token_initialized().then_some(Token { module: self, slot, info })
        });
        Ok(tokens.collect())
    }

    /// The one token that `uri` names.
    pub(crate) fn token(&self, uri: &Uri) -> Result<Token<'_>, TokenError> {
        let tokens = self.tokens()?;
        let all = names(&tokens);
        let mut matching: Vec<_> = tokens.into_iter().filter(|token| token.matches(uri)).collect();
        let wanted = wanted_token(uri);
        match (matching.pop(), matching.is_empty()) {
            (Some(token), true) => Ok(token),
            (Some(token), false) => {
                matching.push(token);
                Err(TokenError::SeveralTokens { wanted, there: names(&matching) })
            }
            (None, _) => Err(TokenError::NoToken { wanted, path: self.path.clone(), there: all }),
        }
    }
}

impl Token<'_> {
    pub(crate) fn label(&self) -> &str {
        self.info.label().trim_end()
    }

    pub(crate) fn serial(&self) -> &str {
        self.info.serial_number().trim_end()
    }

    fn matches(&self, uri: &Uri) -> bool {
        let same = |wanted: &Option<String>, have: &str| wanted.as_deref().is_none_or(|wanted| wanted == have.trim_end());
        same(&uri.token, self.info.label())
            && same(&uri.manufacturer, self.info.manufacturer_id())
            && same(&uri.model, self.info.model())
            && same(&uri.serial, self.info.serial_number())
            && uri.slot_id.is_none_or(|slot| slot == self.slot.id())
    }

    /// The x-coordinate of the private key that `uri` names times `point`. `pin` is `None` where the token asks for it by itself.
    pub(crate) fn agree(
        &self,
        uri: &Uri,
        point: &[u8; POINT_LEN],
        pin: Option<&AuthPin>,
    ) -> Result<Zeroizing<[u8; SECRET_LEN]>, TokenError> {
        let session = self.session(pin)?;
        let key = self.private_key(&session, uri)?;
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::ValueLen((SECRET_LEN as u64).into()),
        ];
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point));
        let agreed = session.derive_key(&mechanism, key, &template).map_err(|e| self.failed(e))?;
        let values = session.get_attributes(agreed, &[AttributeType::Value]);
        // It lives as long as the session, which ends here.
        let _ = session.destroy_object(agreed);
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        match values.map_err(|e| self.failed(e))?.pop() {
            Some(Attribute::Value(mut value)) => {
                let len = value.len();
                let fits = len == SECRET_LEN;
                if fits {
                    secret.copy_from_slice(&value);
                }
                value.zeroize();
                if fits { Ok(secret) } else { Err(TokenError::Secret { token: self.label().into(), len }) }
            }
            _ => Err(TokenError::Secret { token: self.label().into(), len: 0 }),
        }
    }

    /// The P-256 public keys that the token shows; some tokens show them only after a PIN.
    pub(crate) fn public_keys(&self, pin: Option<&AuthPin>) -> Result<Vec<TokenKey>, TokenError> {
        let session = match pin {
            Some(_) => self.session(pin)?,
            None => self.module.pkcs11.open_ro_session(self.slot).map_err(|e| self.failed(e))?,
        };
        let template = [
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::EcParams(P256_PARAMS.to_vec()),
        ];
        let handles = session.find_objects(&template).map_err(|e| self.failed(e))?;
        Ok(handles.into_iter().filter_map(|handle| public_key(&session, handle)).collect())
    }

    fn session(&self, pin: Option<&AuthPin>) -> Result<Session, TokenError> {
        let session = self.module.pkcs11.open_ro_session(self.slot).map_err(|e| self.failed(e))?;
        if self.info.login_required() {
            match session.login(UserType::User, pin) {
                Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => (),
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(session)
    }

    fn private_key(&self, session: &Session, uri: &Uri) -> Result<ObjectHandle, TokenError> {
        let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::EC)];
        template.extend(uri.object.iter().map(|label| Attribute::Label(label.clone().into_bytes())));
        template.extend(uri.id.iter().map(|id| Attribute::Id(id.clone())));
        let keys = session.find_objects(&template).map_err(|e| self.failed(e))?;
        let (token, wanted) = (self.label().to_owned(), wanted_key(uri));
        match keys[..] {
            [key] => Ok(key),
            [] => Err(TokenError::NoKey { token, wanted }),
            _ => Err(TokenError::SeveralKeys { token, wanted, count: keys.len() }),
        }
    }

    fn failed(&self, why: Error) -> TokenError {
        let token = self.label().to_owned();
        match why {
            Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => {
                TokenError::WrongPin { token, left: self.tries_left() }
            }
            Error::Pkcs11(RvError::PinLocked, _) => TokenError::Locked { token },
            Error::Pkcs11(RvError::KeyFunctionNotPermitted, _) => TokenError::NotForDeriving { token },
            why => TokenError::Device { token, why },
        }
    }

    /// What the token says after a wrong PIN.
    fn tries_left(&self) -> &'static str {
        match self.module.pkcs11.get_token_info(self.slot) {
            Ok(info) if info.user_pin_locked() => ", and it is locked now",
            Ok(info) if info.user_pin_final_try() => "; the next wrong one locks it",
            _ => "",
        }
    }
}

fn public_key(session: &Session, handle: ObjectHandle) -> Option<TokenKey> {
    let wanted = [AttributeType::Label, AttributeType::Id, AttributeType::EcPoint];
    let (mut label, mut id, mut key) = (String::new(), Vec::new(), None);
    for attribute in session.get_attributes(handle, &wanted).ok()? {
        match attribute {
            Attribute::Label(bytes) => label = String::from_utf8_lossy(&bytes).into_owned(),
            Attribute::Id(bytes) => id = bytes,
            // In DER an OCTET STRING of 65 bytes; some tokens give the point as it is.
            Attribute::EcPoint(bytes) => key = PublicKey::from_sec1_bytes(bytes.strip_prefix(&[4, 65]).unwrap_or(&bytes)).ok(),
            _ => (),
        }
    }
    Some(TokenKey { label, id, key: key? })
}

fn names(tokens: &[Token]) -> String {
    let names = tokens.iter().map(|token| format!("`{}` (serial {}, slot {})", token.label(), token.serial(), token.slot.id()));
    let names: Vec<_> = names.collect();
    if names.is_empty() { "no token".into() } else { names.join(", ") }
}

fn wanted_token(uri: &Uri) -> String {
    let slot = uri.slot_id.map(|slot| slot.to_string());
    let parts = [
        ("label", &uri.token),
        ("manufacturer", &uri.manufacturer),
        ("model", &uri.model),
        ("serial", &uri.serial),
        ("slot", &slot),
    ];
    let parts: Vec<_> = parts.iter().filter_map(|(name, value)| Some(format!("{name} `{}`", value.as_deref()?))).collect();
    if parts.is_empty() { "token".into() } else { format!("token with {}", parts.join(", ")) }
}

fn wanted_key(uri: &Uri) -> String {
    let id = uri.id.as_ref().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    match (&uri.object, id) {
        (Some(label), Some(id)) => format!("label `{label}` and id {id}"),
        (Some(label), None) => format!("label `{label}`"),
        (None, Some(id)) => format!("id {id}"),
        (None, None) => "any label".into(),
    }
}
