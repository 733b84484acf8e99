//! API keys in SQLite. A key is `coffer-` and 256 random bits in hex; only its SHA-256 is stored, which is enough for a
//! value nobody can guess (a slow password hash would add nothing), and a lookup by hash leaks nothing through its timing:
//! whoever controls the hash already knows the key.

use sha2::{Digest, Sha256};
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use zeroize::Zeroizing;

/// What every key starts with.
pub const PREFIX: &str = "coffer-";
/// Longest name of a key in bytes.
pub const NAME_LIMIT: usize = 100;

/// Numbered steps that bring an older database up to date; `PRAGMA user_version` counts those done.
const MIGRATIONS: &[&str] = &["CREATE TABLE key (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    created INTEGER NOT NULL,
    revoked INTEGER
 ) STRICT;
 CREATE UNIQUE INDEX key_name ON key (name) WHERE revoked IS NULL;"];

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Name given by whoever made it.
    pub name: String,
    /// Last four characters of the key.
    pub hint: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it was revoked, in seconds since 1970.
    pub revoked: Option<u64>,
}

/// The database of keys, for use outside the server. Changes count at once in a running server.
pub struct KeyRing {
    runtime: tokio::runtime::Runtime,
    store: KeyStore,
}

impl KeyRing {
    /// Opens the database, and creates it (readable by its owner only) if it is not there.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(KeyError::Runtime)?;
        let store = runtime.block_on(KeyStore::open(path))?;
        Ok(Self { runtime, store })
    }

    /// Makes a key. It is shown here and never again.
    pub fn add(&self, name: &str) -> Result<Zeroizing<String>, KeyError> {
        self.runtime.block_on(self.store.add(name))
    }

    /// All keys, oldest first, revoked ones too.
    pub fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        self.runtime.block_on(self.store.list())
    }

    /// Ends the life of the key called `name`.
    pub fn revoke(&self, name: &str) -> Result<(), KeyError> {
        self.runtime.block_on(self.store.revoke(name))
    }
}

/// The database of keys, inside the server.
pub(crate) struct KeyStore {
    pool: SqlitePool,
}

impl KeyStore {
    pub(crate) async fn open(path: &Path) -> Result<Self, KeyError> {
        create_private(path).map_err(|source| KeyError::File { path: path.into(), source })?;
        let options =
            SqliteConnectOptions::new().filename(path).journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        migrate(&pool).await?;
        Ok(Self { pool })
    }

    /// Whether `key` exists and was not revoked.
    pub(crate) async fn admits(&self, key: &str) -> Result<bool, KeyError> {
        let row = sqlx::query("SELECT 1 FROM key WHERE hash = ? AND revoked IS NULL")
            .bind(hash(key))
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.is_some())
    }

    async fn add(&self, name: &str) -> Result<Zeroizing<String>, KeyError> {
        if name.is_empty() || name.len() > NAME_LIMIT || name.chars().any(char::is_control) {
            return Err(KeyError::Name { bytes: name.len() });
        }
        let mut secret = Zeroizing::new([0u8; 32]);
        getrandom::fill(&mut *secret).map_err(|e| KeyError::Runtime(io::Error::other(e)))?;
        let digits = Zeroizing::new(hex::encode(*secret));
        let key = Zeroizing::new(format!("{PREFIX}{}", *digits));
        let hint = &digits[digits.len() - 4..];
        let done = sqlx::query("INSERT INTO key (name, hash, hint, created) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(name)
            .bind(hash(&key))
            .bind(hint)
            .bind(now())
            .execute(&self.pool)
            .await?;
        if done.rows_affected() == 0 { Err(KeyError::Taken(name.into())) } else { Ok(key) }
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        let rows = sqlx::query("SELECT name, hint, created, revoked FROM key ORDER BY id").fetch_all(&self.pool).await?;
        Ok(rows.iter().map(info).collect::<Result<_, _>>()?)
    }

    async fn revoke(&self, name: &str) -> Result<(), KeyError> {
        let done = sqlx::query("UPDATE key SET revoked = ? WHERE name = ? AND revoked IS NULL")
            .bind(now())
            .bind(name)
            .execute(&self.pool)
            .await?;
        if done.rows_affected() == 0 { Err(KeyError::Unknown(name.into())) } else { Ok(()) }
    }
}

fn info(row: &SqliteRow) -> Result<KeyInfo, sqlx::Error> {
    let revoked: Option<i64> = row.try_get("revoked")?;
    Ok(KeyInfo {
        name: row.try_get("name")?,
        hint: row.try_get("hint")?,
        created: row.try_get::<i64, _>("created")?.unsigned_abs(),
        revoked: revoked.map(i64::unsigned_abs),
    })
}

fn hash(key: &str) -> Vec<u8> {
    Sha256::digest(key).to_vec()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// Creates an empty file for the owner alone, before SQLite would create it for everyone; its side files inherit the mode.
fn create_private(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

async fn migrate(pool: &SqlitePool) -> Result<(), KeyError> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let version: i64 = sqlx::query("PRAGMA user_version").fetch_one(&mut *transaction).await?.try_get(0)?;
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    let Some(steps) = MIGRATIONS.get(done..) else {
        return Err(KeyError::Newer { version, known: MIGRATIONS.len() });
    };
    for step in steps {
        sqlx::raw_sql(*step).execute(&mut *transaction).await?;
    }
    if !steps.is_empty() {
        // A pragma takes no parameters; the number is our own.
        let pragma = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {}", MIGRATIONS.len()));
        sqlx::raw_sql(pragma).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Why the keys could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file could not be made.
    #[error("key database {}: {source}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("key database: {0}")]
    Database(#[from] sqlx::Error),
    /// A later version wrote the database.
    #[error("key database has version {version}, this program knows versions up to {known}: use the newer program")]
    Newer {
        /// Found.
        version: i64,
        /// Known.
        known: usize,
    },
    /// The name cannot be used.
    #[error("a key's name has 1 to {NAME_LIMIT} bytes and no control characters; this one has {bytes} bytes")]
    Name {
        /// Length of the name.
        bytes: usize,
    },
    /// There is a key of that name.
    #[error("a key called `{0}` exists already: revoke it first, or choose another name")]
    Taken(String),
    /// There is no key of that name.
    #[error("no key called `{0}` that is not revoked already: see `keys list`")]
    Unknown(String),
    /// The operating system gave no runtime or no random bytes.
    #[error("keys: {0}")]
    Runtime(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(ring: &KeyRing, key: &str) -> bool {
        ring.runtime.block_on(ring.store.admits(key)).unwrap()
    }

    #[test]
    fn a_key_lives_from_add_to_revoke() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.db");
        let ring = KeyRing::open(&path).unwrap();
        let key = ring.add("alice").unwrap();
        assert_eq!(key.len(), PREFIX.len() + 64);
        assert!(admits(&ring, &key));
        assert!(!admits(&ring, &key[1..]) && !admits(&ring, ""));
        assert!(matches!(ring.add("alice"), Err(KeyError::Taken(_))));

        // Another process (here: another connection) revokes it, and it is dead at once.
        KeyRing::open(&path).unwrap().revoke("alice").unwrap();
        assert!(!admits(&ring, &key));
        assert!(matches!(ring.revoke("alice"), Err(KeyError::Unknown(_))));
        let again = ring.add("alice").unwrap();
        let listed = ring.list().unwrap();
        assert_eq!(listed.len(), 2);
        assert!(listed[0].revoked.is_some() && listed[1].revoked.is_none());
        assert!(again.ends_with(&listed[1].hint));
    }

    #[test]
    fn the_files_hold_no_key_and_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.db");
        let ring = KeyRing::open(&path).unwrap();
        let key = ring.add("bob").unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(16).any(|w| key.as_bytes()[PREFIX.len()..].starts_with(w)), "{}", path.display());
            #[cfg(unix)]
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
        }
    }

    #[test]
    fn bad_names_and_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ring = KeyRing::open(&dir.path().join("keys.db")).unwrap();
        for name in ["", "a\nb", &"x".repeat(NAME_LIMIT + 1)] {
            assert!(matches!(ring.add(name), Err(KeyError::Name { .. })));
        }
        assert!(matches!(KeyRing::open(&dir.path().join("no/such/keys.db")), Err(KeyError::File { .. })));
        let other = dir.path().join("other.db");
        fs::write(&other, "not a database, but long enough to be one".repeat(100)).unwrap();
        assert!(matches!(KeyRing::open(&other), Err(KeyError::Database(_))));
    }
}
