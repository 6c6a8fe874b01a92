//! Detects a damaged WAL header (SQLite file format, section 4). SQLite takes a WAL with an
//! unreadable header for an empty one, and acknowledged messages would be lost without an error.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

const HEADER: usize = 32;

/// Checks the header of the WAL of `path`.
///
/// A loss of power does not damage the header: it lies in one sector, and is synced before the
/// frames that follow. A WAL that ends early is normal after a loss of power.
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

/// Returns the header, or `None` if the WAL is empty or consists of zeros: it was extended and not
/// written.
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

/// Returns true if the magic number and the checksums are valid. The last bit of the magic number
/// is the byte order of the checksums.
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
