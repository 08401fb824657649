//! The macro that defines the functions of a C API.

/// Defines functions of the driver API. Their bodies return a `Result`. Each call is counted, and
/// refused if the driver is too old to have the function.
macro_rules! api {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($arg: $ty),*) -> i32 {
            let body = || -> $crate::driver::code::Result<()> {
                $crate::driver::state::begin_call(stringify!($name))?;
                $body
            };
            $crate::driver::code::answer(body())
        }
    )*};
}
pub(super) use api;
