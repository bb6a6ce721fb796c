//! How the allocator gives memory back: at once, for anything large.

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
