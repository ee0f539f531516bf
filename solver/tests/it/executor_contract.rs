//! The contract of `Executor` on the double: every item that needs no kernel. The others are
//! `kernel_items` and `error_items` of `tests/root/contract`.

#[path = "../root/contract/seam.rs"]
mod seam;
#[path = "../root/contract/subject.rs"]
#[expect(dead_code, reason = "much of it serves the items that need a kernel")]
mod subject;

use subject::Subject;

macro_rules! tests {
    ($module:ident, $make:expr; $($name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                $module::$name($make);
            }
        )*
    };
}

seam::seam_items!(tests, Subject::scripted);
