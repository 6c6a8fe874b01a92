//! The log of changes beside the file (SQLite file format, section 4), as far as SQLite
//! itself would be silent about its damage: it takes a log that it cannot read for an empty
//! one, and what was acknowledged would be gone without a word.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

const HEADER: usize = 32;

/// Says what is wrong with the log of changes of `path`.
///
/// The loss of power explains none of it: the header lies in one sector of the disk, and is
/// synced before anything that follows it. (What breaks off later in the log was on its way
/// when the power went.)
pub(super) fn check(path: &Path) -> Result<(), String> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let shown = Path::new(&name).display();
    let Some(header) = header(Path::new(&name)).map_err(|error| format!("{shown}: {error}"))?
    else {
        return Ok(());
    };
    if fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Err(format!("it is empty or absent, but {shown} is not"));
    }
    if !is_sound(&header) {
        return Err(format!("it is damaged: {shown} begins with something else"));
    }
    Ok(())
}

/// The first bytes, unless there are none, or only the zeros of a file that was prolonged
/// and not written.
fn header(name: &Path) -> io::Result<Option<[u8; HEADER]>> {
    let mut bytes = [0; HEADER];
    let read = File::open(name).and_then(|mut file| file.read_exact(&mut bytes));
    match read {
        Ok(()) => Ok((bytes != [0; HEADER]).then_some(bytes)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Ok(None),
            _ => Err(error),
        },
    }
}

/// The magic number, whose last bit says how the sums count, and the sums of what follows.
fn is_sound(header: &[u8; HEADER]) -> bool {
    const MAGIC: u32 = 0x377f_0682;
    let (words, _) = header.as_chunks::<4>();
    let Some((magic, sums)) = words.first().zip(words.last_chunk::<2>()) else { return false };
    let magic = u32::from_be_bytes(*magic);
    let number = |word: &[u8; 4]| match magic & 1 {
        0 => u32::from_le_bytes(*word),
        _ => u32::from_be_bytes(*word),
    };
    let (pairs, _) = words[..6].as_chunks::<2>();
    let expected = pairs.iter().fold((0_u32, 0_u32), |(one, two), [first, second]| {
        let one = one.wrapping_add(number(first)).wrapping_add(two);
        (one, two.wrapping_add(number(second)).wrapping_add(one))
    });
    let [one, two] = sums.map(u32::from_be_bytes);
    magic & !1 == MAGIC && (one, two) == expected
}
