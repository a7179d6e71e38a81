//! The macro that makes types and functions from the definitions of settings.

/// Defines the settings of one table of the configuration file.
///
/// The arguments are the names of the types to make (the options of the command line, the table of the
/// file, the settings of one source, the merged settings), a prefix of the keys for `--explain`,
/// further keys of the table, further fields of the merged settings, and the settings. A setting is
/// its documentation, clap's attributes of its option, and one of these lines:
///
/// ```text
/// value "OPTION" key: Type = default;                  // always has a value
/// switch "OPTION" key: bool = false;                   // has an option without a value
/// optional "OPTION" key: Type = (ABSENT, EXAMPLE);     // may have no value
/// path "OPTION" key: PathBuf = (ABSENT, EXAMPLE);      // likewise; relative to the file
/// ```
///
/// The documentation is the help of the option, and the comment in `config.example.toml`. ABSENT
/// describes the behaviour without a value. EXAMPLE is a value in TOML.
macro_rules! settings {
    (
        $(#[$outer:meta])*
        $Options:ident, $Table:ident, $Layer:ident, $Settings:ident, $prefix:literal
        [$($(#[$key_meta:meta])* $key:ident: $key_type:ty,)*]
        [$($(#[$field_meta:meta])* $field:ident: $field_type:ty,)*]
        $(
            $(#[$meta:meta])*
            $kind:ident $option:literal $name:ident: $type:ty = $default:tt;
        )*
    ) => {
        $(#[$outer])*
        ///
        /// As options of the command line.
        #[derive(Args, Clone, Debug, Default)]
        pub struct $Options {
            $($(#[$meta])* #[arg(long = $option)] pub $name: Option<$type>,)*
        }

        $(#[$outer])*
        ///
        /// As a table of the configuration file.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, expecting = "a table")]
        #[allow(missing_docs)]
        pub struct $Table {
            $($(#[$key_meta])* pub $key: $key_type,)*
            $(pub $name: Option<Spanned<$type>>,)*
        }

        $(#[$outer])*
        ///
        /// As one source sets it: a value, or nothing.
        #[derive(Debug, Default)]
        #[allow(missing_docs)]
        pub struct $Layer {
            $(pub $name: Option<Setting<$type>>,)*
        }

        $(#[$outer])*
        ///
        /// As the sources together set it: each value with its origin.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub struct $Settings {
            $($(#[$field_meta])* pub $field: $field_type,)*
            $(pub $name: settings!(@type $kind $type),)*
        }

        impl $Layer {
            /// Returns what the command line sets.
            pub fn of_options(options: &$Options) -> Self {
                Self {
                    $($name: settings!(@given $kind options.$name)
                        .map(|value| Setting::new(value, Origin::Flag(concat!("--", $option)))),)*
                }
            }

            /// Returns what a table of the configuration file sets.
            pub fn of_table(table: &$Table, file: &impl ConfigSource) -> Self {
                Self {
                    $($name: table.$name.as_ref().map(|value| {
                        let setting = Setting::new(value.get_ref().clone(), file.origin(value));
                        settings!(@from_file $kind setting, file)
                    }),)*
                }
            }

            /// Returns the first of the options that are given.
            pub fn first_option(&self) -> Option<&'static str> {
                [$(self.$name.as_ref().map(|setting| &setting.origin),)*]
                    .into_iter()
                    .flatten()
                    .find_map(|origin| match origin {
                        Origin::Flag(name) => Some(*name),
                        _ => None,
                    })
            }

            /// Returns the settings of this source, and those of a `lower` one that this source does not set.
            #[must_use]
            pub fn or(self, lower: Self) -> Self {
                Self { $($name: self.$name.or(lower.$name),)* }
            }

            /// Returns the merged settings, with the default for each that no source sets.
            pub fn resolve(self $(, $field: $field_type)*) -> $Settings {
                $Settings {
                    $($field,)*
                    $($name: settings!(@resolve $kind self.$name, $default),)*
                }
            }
        }

        impl $Settings {
            /// The definitions, in the order of the documentation.
            pub const DEFINITIONS: &'static [Definition] = &[
                $(settings!(@definition $kind $name, $type, $default),)*
            ];

            /// Returns each setting as `--explain` shows it.
            pub fn list(&self) -> Vec<ListedSetting> {
                vec![$(settings!(
                    @list $kind concat!($prefix, stringify!($name)), self.$name, $default
                ),)*]
            }
        }
    };

    (@type value $type:ty) => { Setting<$type> };
    (@type switch $type:ty) => { Setting<$type> };
    (@type $optional:ident $type:ty) => { Setting<Option<$type>> };

    // clap sets a switch that is not typed to false.
    (@given switch $value:expr) => { $value.filter(|&is_given| is_given) };
    (@given $kind:ident $value:expr) => { $value.clone() };

    (@from_file path $setting:expr, $file:expr) => { $setting.map(|path| $file.absolute(&path)) };
    (@from_file $kind:ident $setting:expr, $file:expr) => { $setting };

    (@resolve value $value:expr, $default:tt) => {
        $value.unwrap_or_else(|| Setting::new($default, Origin::Default))
    };
    (@resolve switch $value:expr, $default:tt) => { settings!(@resolve value $value, $default) };
    (@resolve $optional:ident $value:expr, $default:tt) => {
        $value.map_or(Setting::new(None, Origin::Default), |setting| setting.map(Some))
    };

    (@list value $key:expr, $setting:expr, $default:tt) => {
        ListedSetting::new($key, &$setting, $crate::definitions::Listed::listed)
    };
    (@list switch $key:expr, $setting:expr, $default:tt) => {
        settings!(@list value $key, $setting, $default)
    };
    (@list $optional:ident $key:expr, $setting:expr, $default:tt) => {
        ListedSetting::optional(
            $key,
            &$setting,
            $default.0,
            $crate::definitions::Listed::listed,
        )
    };

    (@definition value $name:ident, $type:ty, $default:tt) => {
        Definition {
            key: stringify!($name),
            default: || Some(shown(&$default)),
            is_optional: false,
            example: || Listed::listed(&$default).to_string(),
        }
    };
    (@definition switch $name:ident, $type:ty, $default:tt) => {
        Definition {
            key: stringify!($name),
            default: || None,
            is_optional: false,
            example: || $default.to_string(),
        }
    };
    (@definition $optional:ident $name:ident, $type:ty, $default:tt) => {
        Definition {
            key: stringify!($name),
            default: || Some($default.0).filter(|absent| *absent != "none").map(str::to_owned),
            is_optional: true,
            example: || $default.1.to_owned(),
        }
    };
}

pub(super) use settings;
