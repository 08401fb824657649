//! The macro that defines the functions of a C API.

/// Defines functions of the driver API. Their bodies return a `Result`, and each call is counted.
macro_rules! api {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($arg: $ty),*) -> i32 {
            $crate::driver::state::count_call(stringify!($name));
            let body = || -> $crate::driver::code::Result<()> { $body };
            $crate::driver::code::answer(body())
        }
    )*};
}
pub(super) use api;
