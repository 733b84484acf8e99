//! A file that appears under its name when it is whole.

use anyhow::{Context, Result, ensure};
use std::{fs::Permissions, io::Write, os::unix::fs::PermissionsExt, path::Path};
use tempfile::NamedTempFile;

/// Made before the work begins: a place that cannot be written to is found at once. Dropped unfinished, it leaves nothing.
pub(crate) struct Unfinished<'a> {
    file: NamedTempFile,
    output: &'a Path,
}

impl<'a> Unfinished<'a> {
    /// A file beside `output`, with the permissions of any new file.
    pub(crate) fn beside(output: &'a Path) -> Result<Self> {
        let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".coffer-").suffix(".partial").permissions(Permissions::from_mode(0o666));
        let file = builder.tempfile_in(folder).with_context(|| output.display().to_string())?;
        Ok(Self { file, output })
    }

    /// The same, where `output` must not be there yet; end it with [`Self::finish_new`].
    pub(crate) fn beside_nothing(output: &'a Path) -> Result<Self> {
        absent(output)?;
        Self::beside(output)
    }

    /// Writes all of it and gives it its name; an existing file is replaced.
    pub(crate) fn finish(self, bytes: &[u8]) -> Result<()> {
        let (file, output) = self.write(bytes)?;
        file.persist(output).map_err(|e| e.error).with_context(|| output.display().to_string())?;
        Ok(())
    }

    /// As [`Self::finish`], but an existing file is an error.
    pub(crate) fn finish_new(self, bytes: &[u8]) -> Result<()> {
        let (file, output) = self.write(bytes)?;
        file.persist_noclobber(output).map_err(|e| e.error).with_context(|| output.display().to_string())?;
        Ok(())
    }

    fn write(mut self, bytes: &[u8]) -> Result<(NamedTempFile, &'a Path)> {
        let written = self.file.write_all(bytes).and_then(|()| self.file.as_file().sync_all());
        written.with_context(|| self.output.display().to_string())?;
        Ok((self.file, self.output))
    }
}

/// An error if something is at `output` already.
pub(crate) fn absent(output: &Path) -> Result<()> {
    ensure!(!output.exists(), "{}: exists already; nothing is overwritten", output.display());
    Ok(())
}
