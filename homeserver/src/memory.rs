//! What of memory goes back to the system: large allocations at once, and after the start the code that only the
//! start ran.

/// To be called first thing in a program that runs the homeserver.
///
/// A password's hash takes 19 MiB and a picture's thumbnail up to 128 MiB, for a moment, on whatever thread is free.
/// glibc answers large requests with a mapping of their own, which goes back to the system when freed, but raises the
/// size from which it does so with each one it sees, and keeps what is below it for each thread: eight log-ins left
/// 140 MB behind (measured). A fixed size keeps it as it was; two arenas are enough for threads that mostly wait.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "the C library's tuning has no safe form")]
    // SAFETY: `mallopt` only sets parameters of the allocator, and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: libc::c_int = 1 << 20;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 2;

/// To be called once a node has started: takes the pages of the program's code and constants out of the process.
///
/// A start runs code that a node never comes to again (flags, settings, the tables' first making, the routes), and the
/// system maps 64 KiB around each page that is touched: 17 of 28 MB resident after a start were such pages of the
/// program file. They are clean and stay in the system's file cache; what runs on comes back by minor faults, a few
/// hundred in the first minute. A system without `/proc` keeps them: it costs nothing but the figure.
pub fn forget_start() {
    #[cfg(target_os = "linux")]
    for (start, end) in own_code() {
        #[allow(unsafe_code, reason = "no safe form; see below")]
        // SAFETY: the range is a mapping of the program file which never was writable (`own_code`), so none of its
        // pages differs from the file, and each comes back as it was at the next access.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}

/// The ranges of addresses where this program's file is mapped and no page can differ from it: code and constants.
#[cfg(target_os = "linux")]
fn own_code() -> Vec<(usize, usize)> {
    let (Ok(program), Ok(maps)) =
        (std::fs::read_link("/proc/self/exe"), std::fs::read_to_string("/proc/self/maps"))
    else {
        return Vec::new();
    };
    code_of(&maps, &program.to_string_lossy())
}

/// Reads them from the text of `/proc/self/maps` (proc_pid_maps(5)): `start-end perms offset device inode path`.
#[cfg(target_os = "linux")]
fn code_of(maps: &str, program: &str) -> Vec<(usize, usize)> {
    maps.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (range, perms, offset) = (fields.next()?, fields.next()?, fields.next()?);
            // What begins the file is constants. Other parts that only can be read were written by the loader before
            // (relocations) and would be lost.
            let clean = perms == "r-xp" || (perms == "r--p" && u64::from_str_radix(offset, 16).ok()? == 0);
            if !clean || !line.ends_with(program) {
                return None;
            }
            let (start, end) = range.split_once('-')?;
            Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
        })
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_clean_pages_of_the_program_are_forgotten() {
        let maps = "\
55d0-55e0 r--p 00000000 fe:00 12 /usr/bin/mangrove
55e0-55f0 r-xp 00010000 fe:00 12 /usr/bin/mangrove
55f0-55f8 r--p 00020000 fe:00 12 /usr/bin/mangrove
55f8-5600 rw-p 00028000 fe:00 12 /usr/bin/mangrove
7f00-7f10 r-xp 00000000 fe:00 99 /usr/lib/libc.so.6
7f20-7f30 r-xp 00000000 00:00 0 [vdso]
";
        assert_eq!(code_of(maps, "/usr/bin/mangrove"), [(0x55d0, 0x55e0), (0x55e0, 0x55f0)]);
    }

    #[test]
    fn the_program_runs_on_after_its_code_was_forgotten() {
        assert!(!own_code().is_empty());
        forget_start();
        let sorted = {
            let mut all = vec![3, 1, 2];
            all.sort_unstable();
            all
        };
        assert_eq!(sorted, [1, 2, 3]);
    }
}
