//! Inputs that are always the same: trees of small files, and a root to run steps in.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::Outcome;

/// Files per directory.
const PER_DIRECTORY: usize = 100;
const WORDS: [&str; 16] = [
    "vertex ", "layer ", "digest ", "mount ", "key ", "the ", "of ", "and ", "result ", "a ",
    "stack ", "(", ")\n", "0x", "return ", "tree ",
];

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Writes files of 0 to 8 KiB, 4 KiB on average, that compress like source text.
pub(crate) fn small_files(folder: &Path, count: usize) -> Outcome {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut text = Vec::with_capacity(9000);
    for directory in 0..count.div_ceil(PER_DIRECTORY) {
        let path = folder.join(format!("group{}/part{directory}", directory / 20));
        fs::create_dir_all(&path)?;
        for file in 0..PER_DIRECTORY.min(count - directory * PER_DIRECTORY) {
            let length = usize::try_from(numbers.next() % 8192)?;
            text.clear();
            while text.len() < length {
                let number = numbers.next();
                for shift in (0..40).step_by(4) {
                    let word = usize::try_from(number >> shift & 15)?;
                    text.extend_from_slice(WORDS[word].as_bytes());
                }
                write!(text, "{:x}", number >> 40)?;
            }
            fs::write(path.join(format!("file{file}.rs")), &text[..length])?;
        }
    }
    Ok(())
}

/// Adds words until there are so many bytes.
fn text(numbers: &mut Numbers, length: usize, text: &mut Vec<u8>) {
    while text.len() < length {
        let number = numbers.next();
        for shift in (0..40).step_by(4) {
            let word = usize::try_from(number >> shift & 15).unwrap_or(0);
            text.extend_from_slice(WORDS[word].as_bytes());
        }
        text.extend_from_slice(format!("{:x}", number >> 40).as_bytes());
    }
    text.truncate(length);
}

/// Writes a root of so many megabytes: two fifths in files of 0 to 34 KiB, the rest in files of
/// 25 MB, all like source text.
pub(crate) fn root(folder: &Path, megabytes: u64) -> Outcome {
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let mut words = Vec::new();
    let mut part = |numbers: &mut Numbers, length: usize| {
        words.clear();
        text(numbers, length, &mut words);
        words.clone()
    };
    let (mut written, mut count) = (0, 0);
    while written < megabytes * 400_000 {
        let path = folder.join(format!("usr/lib/group{}/part{}", count / 2000, count / 40));
        fs::create_dir_all(&path)?;
        let length = numbers.next() % (34 << 10);
        let bytes = part(&mut numbers, usize::try_from(length)?);
        fs::write(path.join(format!("file{count}.so")), bytes)?;
        written += length;
        count += 1;
    }
    let large = part(&mut numbers, 25_000_000);
    fs::create_dir_all(folder.join("var/data"))?;
    while written < megabytes * 1_000_000 {
        fs::write(folder.join(format!("var/data/{count}")), &large)?;
        written += 25_000_000;
        count += 1;
    }
    Ok(())
}

/// Writes a root of so many megabytes: two fifths are files below `/usr`, in the order of their
/// names and none above 8 MB, the rest files of 25 MB, of which two thirds do not compress. A system
/// that is too small is followed by more of the latter.
pub(crate) fn system(folder: &Path, megabytes: u64) -> Outcome {
    let mut written = 0;
    let mut folders = vec![Path::new("/usr").to_path_buf()];
    while let Some(from) = folders.pop() {
        let mut entries = fs::read_dir(&from)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
        let to = folder.join(from.strip_prefix("/")?);
        for entry in entries {
            let there = entry.metadata()?;
            if there.is_dir() {
                folders.push(entry.path());
            } else if there.is_file() && there.len() <= 8_000_000 && written < megabytes * 400_000 {
                fs::create_dir_all(&to)?;
                fs::copy(entry.path(), to.join(entry.file_name()))?;
                written += there.len();
            }
        }
    }
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let pool: Vec<u8> = (0..512 << 10)
        .flat_map(|_| numbers.next().to_le_bytes())
        .collect();
    fs::create_dir_all(folder.join("var/data"))?;
    for count in 0.. {
        if written >= megabytes * 1_000_000 {
            break;
        }
        let mut large = Vec::new();
        while large.len() < 25_000_000 {
            match numbers.next() % 3 {
                0 => text(&mut numbers, large.len() + (64 << 10), &mut large),
                _ => {
                    let at = usize::try_from(numbers.next() % (4032 << 10))?;
                    large.extend_from_slice(&pool[at..at + (64 << 10)]);
                }
            }
        }
        fs::write(folder.join(format!("var/data/{count}")), &large)?;
        written += large.len() as u64;
    }
    Ok(())
}

/// Makes a root with a shell in which `/bin/true` runs.
pub(crate) fn small_root(folder: &Path) -> Outcome {
    fs::create_dir_all(folder.join("bin"))?;
    for directory in ["proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir(folder.join(directory))?;
    }
    for program in ["/usr/bin/busybox", "/bin/busybox"] {
        if is_static(program) {
            fs::copy(program, folder.join("bin/busybox"))?;
            symlink("busybox", folder.join("bin/true"))?;
            return Ok(());
        }
    }
    // No static busybox: a dynamic `true` and what it is linked with.
    let output = Command::new("ldd").arg("/bin/true").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for file in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = folder.join(file.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap_or(folder))?;
        fs::copy(file, &target)?;
        fs::set_permissions(&target, Permissions::from_mode(0o755))?;
    }
    fs::copy("/bin/true", folder.join("bin/true"))?;
    Ok(())
}

fn is_static(program: &str) -> bool {
    let output = Command::new("ldd").arg(program).output();
    Path::new(program).exists() && output.is_ok_and(|output| !output.status.success())
}
