//! A tree of files as values of the runtime: folders are the parts of a key, a file's content is the value.

use std::fs;
use std::path::Path;

use super::{RuntimeFolder, RuntimeValues, value};

/// Envoy's bound of nested folders.
const MAX_DEPTH: usize = 16;

impl RuntimeFolder {
    /// Reads it; `None` where it is not there. One file that is no value spoils all.
    pub fn read(&self) -> Option<Result<RuntimeValues, String>> {
        if !self.path.is_dir() {
            return None;
        }
        let mut values = RuntimeValues::new();
        Some(walk(&self.path, "", 1, &mut values).map(|()| values))
    }
}

fn walk(folder: &Path, prefix: &str, depth: usize, values: &mut RuntimeValues) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("{}: folders are nested more than {MAX_DEPTH} deep", folder.display()));
    }
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let key = if prefix.is_empty() { name.into_owned() } else { format!("{prefix}.{name}") };
        // Through symbolic links. What is gone by now is passed over.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            walk(&path, &key, depth + 1, values)?;
        } else if metadata.is_file() {
            let bytes = fs::read(&path).map_err(|error| failed(&path, error))?;
            let text = content(&String::from_utf8_lossy(&bytes));
            let value = value::of_yaml(&text).map_err(|reason| format!("{}: {reason}", path.display()))?;
            values.insert(key, value);
        }
    }
    Ok(())
}

/// Without lines that begin with `#`, empty ones, and what is blank at the end of the last.
fn content(text: &str) -> String {
    let lines: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
    let last = lines.last().copied().unwrap_or_default();
    let mut content = String::new();
    for line in lines.iter().filter(|line| !line.starts_with('#')) {
        match *line == last {
            true => content.push_str(line.trim_end()),
            false => {
                content.push_str(line);
                content.push('\n');
            }
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_the_last_line_break_are_no_part_of_a_value() {
        for (text, expected) in [
            ("# c\n 7 \n", " 7"),
            ("# only", ""),
            ("x\ny\n\n", "x\ny"),
            ("#c\nnumerator: 5\n#d\n", "numerator: 5\n"),
            ("1\r\n", "1"),
            ("", ""),
        ] {
            assert_eq!(content(text), expected);
        }
    }

    #[test]
    fn a_tree_is_read_and_one_bad_file_spoils_it() {
        let root = std::env::temp_dir().join(format!("nuncio-runtime-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/c"), "5\n").unwrap();
        fs::write(root.join("d"), "true").unwrap();
        let folder = RuntimeFolder { link: root.clone(), path: root.clone() };
        let values = folder.read().unwrap().unwrap();
        assert_eq!(values.keys().collect::<Vec<_>>(), ["a.b.c", "d"]);
        assert_eq!(values["a.b.c"].integer, Some(5));
        fs::write(root.join("bad"), "x: [").unwrap();
        assert!(folder.read().unwrap().unwrap_err().contains("bad: "));
        fs::remove_dir_all(&root).unwrap();
        assert!(folder.read().is_none());
    }
}
