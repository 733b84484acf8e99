//! Paths that a signature does not cover.

/// What belongs to a repository, not to the model in it.
const ALWAYS: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// Files and directories of a model, by their paths in it, that are neither signed nor verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored(Vec<String>);

impl Ignored {
    /// What is always ignored (`.git`, `.gitattributes`, `.github`, `.gitignore`, at the top), and `paths`. Paths that lead
    /// out of the model are left out: nothing there is looked at.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all: Vec<String> = ALWAYS.into_iter().chain(paths).filter_map(inside).collect();
        all.sort();
        all.dedup();
        Self(all)
    }

    /// Whether the file `name`, or a directory that it lies in, is ignored.
    pub fn covers(&self, name: &str) -> bool {
        let below = |path: &String| name.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.0.iter().any(below)
    }

    /// The paths, in ascending order.
    pub fn paths(&self) -> &[String] {
        &self.0
    }

    /// These, and `others`.
    pub fn and(&self, others: &Self) -> Self {
        Self::new(self.0.iter().chain(&others.0).map(String::as_str))
    }
}

/// `path` without `.` and doubled separators; `None` if it is the model itself or leads out of it.
fn inside(path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_components_from_the_top() {
        let ignored = Ignored::new(["a/./b//", "../out", "/abs", "", ".", "x/../y"]);
        assert_eq!(ignored.paths(), [".git", ".gitattributes", ".github", ".gitignore", "a/b"]);
        for name in ["a/b", "a/b/c", ".git/config", ".gitignore"] {
            assert!(ignored.covers(name), "{name}");
        }
        for name in ["a", "a/bc", "a/b.txt", "sub/.git", "out", "abs", "y", ".gitmodules"] {
            assert!(!ignored.covers(name), "{name}");
        }
    }
}
