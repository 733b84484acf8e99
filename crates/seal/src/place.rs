//! Where the files of a bundle or a model lie: a folder of this machine, or what a URL stands for. Everything here reads by position
//! and blocks; who knows networks is registered from above, so that a URL can be given wherever a path can.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// A folder of named files.
pub trait Place: Send + Sync {
    /// The regular file `name` (`/`-separated; empty: what the place itself names).
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none.
    fn open(&self, name: &str) -> io::Result<Box<dyn PlacedFile>>;
    /// What lies directly in `folder` (empty: the place itself). `None` if this kind of place can list nothing.
    ///
    /// # Errors
    /// Fails if the folder cannot be read or holds too much.
    fn list(&self, folder: &str) -> io::Result<Option<Vec<Listed>>>;
}

/// A file that is read by position, from several threads at once.
pub trait PlacedFile: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Whether it is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `out` with what begins at `at`; anything less is an error.
    ///
    /// # Errors
    /// Fails as the system does; [`io::ErrorKind::UnexpectedEof`] beyond the end.
    fn read_exact_at(&self, at: u64, out: &mut [u8]) -> io::Result<()>;
}

/// An entry of a folder.
pub struct Listed {
    /// Its name in the folder.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of so many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// A link, a device, or whatever else.
    Other,
}

/// Opens the place that a URL names.
pub type Opener = fn(&str) -> io::Result<Arc<dyn Place>>;

static OPENER: OnceLock<Opener> = OnceLock::new();

/// Registers who opens URLs in this process; the first one stays.
pub fn register(opener: Opener) {
    OPENER.get_or_init(|| opener);
}

/// `path` as text, if it is a URL (`scheme://…`) rather than a path. A local path that looks like one is reached as `./…`.
pub fn url(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let (scheme, _) = text.split_once("://")?;
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(letter)).then_some(text)
}

/// The place that `path` names, be it a folder or a URL.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] for a URL that nobody opens here.
pub fn at(path: &Path) -> io::Result<Arc<dyn Place>> {
    match (url(path), OPENER.get()) {
        (None, _) => Ok(Arc::new(Folder(path.to_owned()))),
        (Some(url), Some(open)) => open(url),
        (Some(_), None) => Err(io::Error::new(io::ErrorKind::Unsupported, "URLs are not read by this program")),
    }
}

/// `text` with every URL in it cut before its query or fragment, and without its user.
pub fn redact(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(redact_word).collect()
}

fn redact_word(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let end = &word[word.trim_end().len()..];
    let rest = rest.trim_end();
    let shown = rest.find(['?', '#']).map_or(rest, |at| &rest[..at]);
    let authority = shown.find('/').unwrap_or(shown.len());
    let host = shown[..authority].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}{end}", &shown[host..])
}

/// A folder of this machine.
struct Folder(PathBuf);

impl Place for Folder {
    fn open(&self, name: &str) -> io::Result<Box<dyn PlacedFile>> {
        let path = self.0.join(name);
        let is_file = |meta: fs::Metadata| match meta.is_file() {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "is no regular file")),
        };
        // A link is refused, even one to a file.
        fs::symlink_metadata(&path).and_then(is_file)?;
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Box::new(Local { file, len }))
    }

    fn list(&self, folder: &str) -> io::Result<Option<Vec<Listed>>> {
        let listed = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            let kind = entry.file_type()?;
            let kind = match () {
                () if kind.is_dir() => Kind::Folder,
                () if kind.is_file() => Kind::File(entry.metadata()?.len()),
                () => Kind::Other,
            };
            Ok(Listed { name: entry.file_name().to_string_lossy().into_owned(), kind })
        };
        fs::read_dir(self.0.join(folder))?.map(listed).collect::<io::Result<_>>().map(Some)
    }
}

struct Local {
    file: File,
    len: u64,
}

impl PlacedFile for Local {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_exact_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for (text, expected) in [
            ("s3://bucket/a", true),
            ("https://host/a", true),
            ("x-y+z.1://", true),
            ("./s3://bucket/a", false),
            ("/a/b://c", false),
            ("s3:/bucket", false),
            ("://a", false),
            ("1s://a", false),
            ("model", false),
        ] {
            assert_eq!(url(Path::new(text)).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn nothing_secret_is_left_of_a_url() {
        for (text, expected) in [
            ("GET https://a.b/c?sig=SECRET in 3 s", "GET https://a.b/c in 3 s"),
            ("s3://KEY:SECRET@bucket/a#SECRET", "s3://bucket/a"),
            ("(https://h?SECRET)", "(https://h"),
            ("no URL at all?", "no URL at all?"),
            ("https://h/a@b/c", "https://h/a@b/c"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }
}
