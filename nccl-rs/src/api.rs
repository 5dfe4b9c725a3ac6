//! The functions of the loaded library.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::path::PathBuf;

use crate::dynamic::{Opened, file_of};
use crate::error::{Error, Report, Status};
use crate::ffi;
use crate::search::LoadError;
use crate::version::Version;

/// Declares the table, and how it is filled: required functions, and those that came after [`Version::OLDEST`].
macro_rules! table {
    (required { $($field:ident: $kind:ident = $symbol:literal,)* } later { $($later:ident: $late:ident = $name:literal,)* }) => {
        pub(crate) struct Api {
            pub version: Version,
            pub path: PathBuf,
            $(pub $field: ffi::$kind,)*
            $(pub $later: Option<ffi::$late>,)*
        }

        impl Api {
            fn fill(version: Version, path: PathBuf, find: &dyn Fn(&CStr) -> *mut c_void) -> Result<Self, LoadError> {
                Ok(Self {
                    version,
                    $($field: {
                        let Some(function) = function::<ffi::$kind>(find, $symbol) else {
                            let function = $symbol.to_str().unwrap_or_default();
                            return Err(LoadError::Incomplete { path, function });
                        };
                        function
                    },)*
                    $($later: function::<ffi::$late>(find, $name),)*
                    path,
                })
            }
        }
    };
}

table! {
    required {
        get_unique_id: GetUniqueId = c"ncclGetUniqueId",
        get_error_string: GetErrorString = c"ncclGetErrorString",
        get_last_error: GetLastError = c"ncclGetLastError",
        init_rank_config: InitRankConfig = c"ncclCommInitRankConfig",
        split: Split = c"ncclCommSplit",
        finalize: OfComm = c"ncclCommFinalize",
        destroy: OfComm = c"ncclCommDestroy",
        abort: OfComm = c"ncclCommAbort",
        get_async_error: IntOfComm = c"ncclCommGetAsyncError",
        count: IntOfComm = c"ncclCommCount",
        cu_device: IntOfComm = c"ncclCommCuDevice",
        user_rank: IntOfComm = c"ncclCommUserRank",
        group_start: Plain = c"ncclGroupStart",
        group_end: Plain = c"ncclGroupEnd",
        all_reduce: Reducing = c"ncclAllReduce",
        reduce_scatter: Reducing = c"ncclReduceScatter",
        reduce: Reduce = c"ncclReduce",
        broadcast: Broadcast = c"ncclBroadcast",
        all_gather: AllGather = c"ncclAllGather",
        send: Send = c"ncclSend",
        recv: Recv = c"ncclRecv",
    }
    later {
        register: Register = c"ncclCommRegister",
        deregister: Deregister = c"ncclCommDeregister",
        mem_alloc: MemAlloc = c"ncclMemAlloc",
        mem_free: MemFree = c"ncclMemFree",
        stream_query: StreamQuery = c"doubleStreamQuery",
    }
}

/// The version in which buffers could first be registered and allocated.
const REGISTRATION: Version = Version::new(2, 19, 1);

/// The symbol as a function pointer of type `F`.
fn function<F: Copy>(find: &dyn Fn(&CStr) -> *mut c_void, name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) }
    let address = find(name);
    // SAFETY: F is a function pointer of the size of an address (asserted), and the address is not null. That the
    // function has this signature is what its name promises in NCCL's public interface.
    (!address.is_null()).then(|| unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
}

impl Api {
    pub(crate) fn of(library: Opened) -> Result<Self, LoadError> {
        Self::resolve(&|name| library.symbol(name))
    }

    /// The version is asked before anything else: what an old library lacks, its age explains best.
    fn resolve(find: &dyn Fn(&CStr) -> *mut c_void) -> Result<Self, LoadError> {
        let path = file_of(find(c"ncclGetVersion")).unwrap_or_else(|| PathBuf::from("the loaded library"));
        let Some(get_version) = function::<ffi::GetVersion>(find, c"ncclGetVersion") else {
            return Err(LoadError::Incomplete { path, function: "ncclGetVersion" });
        };
        let mut code: c_int = 0;
        // SAFETY: it writes one int.
        let result = unsafe { get_version(&raw mut code) };
        if result != ffi::SUCCESS {
            return Err(LoadError::NoVersion { path, code: result });
        }
        let version = Version::from_code(code);
        if version < Version::OLDEST {
            return Err(LoadError::TooOld { path, found: version });
        }
        Self::fill(version, path, find)
    }

    /// What the library says about a result, and about the last failure of this communicator or, where it is null, of any.
    pub(crate) fn report(&self, status: Status, code: c_int, comm: *mut ffi::Comm) -> Report {
        // SAFETY: the function takes any int and returns a NUL-terminated constant.
        let meaning = unsafe { text((self.get_error_string)(code)) };
        // SAFETY: null or a communicator that this thread owns; the text is the library's and is copied at once.
        let last_error = unsafe { text((self.get_last_error)(comm)) };
        Report { status, meaning, last_error }
    }

    /// Turns the result of a call that concerns no communicator into one of Rust's.
    pub(crate) fn check(&self, call: &'static str, code: c_int) -> Result<(), Error> {
        match Status::from_code(code) {
            None => Ok(()),
            Some(status) => {
                let report = Box::new(self.report(status, code, std::ptr::null_mut()));
                Err(Error::Call { call, rank: None, report })
            }
        }
    }

    pub(crate) fn register(&self) -> Result<ffi::Register, Error> {
        self.later(self.register, "ncclCommRegister")
    }

    pub(crate) fn deregister(&self) -> Result<ffi::Deregister, Error> {
        self.later(self.deregister, "ncclCommDeregister")
    }

    pub(crate) fn mem_alloc(&self) -> Result<ffi::MemAlloc, Error> {
        self.later(self.mem_alloc, "ncclMemAlloc")
    }

    pub(crate) fn mem_free(&self) -> Result<ffi::MemFree, Error> {
        self.later(self.mem_free, "ncclMemFree")
    }

    fn later<F>(&self, function: Option<F>, name: &'static str) -> Result<F, Error> {
        function.ok_or(Error::Missing { function: name, since: REGISTRATION, found: self.version })
    }
}

/// Copies a text of the library.
///
/// # Safety
/// Null, or NUL-terminated and alive.
unsafe fn text(pointer: *const std::ffi::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The double's functions but for those named, as a library of another age would have them.
    fn without(missing: &'static [&'static CStr]) -> impl Fn(&CStr) -> *mut c_void {
        let library = Opened::load(&nccl_double::library().unwrap()).unwrap();
        move |name| if missing.contains(&name) { std::ptr::null_mut() } else { library.symbol(name) }
    }

    unsafe extern "C" fn old(version: *mut c_int) -> c_int {
        // SAFETY: the caller passes an int to write to.
        unsafe { version.write(21403) };
        ffi::SUCCESS
    }

    unsafe extern "C" fn mute(_: *mut c_int) -> c_int {
        2
    }

    #[test]
    fn a_function_of_a_later_version_is_missing_by_name_and_the_rest_works() {
        let api = Api::resolve(&without(&[c"ncclMemAlloc", c"ncclCommRegister"])).unwrap();
        let error = api.mem_alloc().unwrap_err();
        assert_eq!(error.to_string(), "ncclMemAlloc is in NCCL since 2.19.1, and the loaded library is 2.28.9");
        assert!(api.register().is_err());
        assert!(api.deregister().is_ok());
    }

    #[test]
    fn a_library_without_a_function_that_all_versions_have_is_no_nccl() {
        let error = Api::resolve(&without(&[c"ncclCommAbort"])).err().unwrap().to_string();
        assert!(error.contains("libnccl_double") && error.contains("ncclCommAbort"), "{error}");
        assert!(matches!(Api::resolve(&|_| std::ptr::null_mut()), Err(LoadError::Incomplete { .. })));
    }

    #[test]
    fn a_version_that_is_too_old_is_named_with_the_one_that_is_needed() {
        let find = |name: &CStr| if name == c"ncclGetVersion" { old as *mut c_void } else { std::ptr::null_mut() };
        let error = Api::resolve(&find).err().unwrap().to_string();
        assert!(error.ends_with("is NCCL 2.14.3, and at least 2.18.1 is needed"), "{error}");
    }

    #[test]
    fn a_library_that_does_not_say_its_version_is_refused() {
        let error = Api::resolve(&|_| mute as *mut c_void).err().unwrap().to_string();
        assert!(error.contains("ncclGetVersion returned 2"), "{error}");
    }
}
