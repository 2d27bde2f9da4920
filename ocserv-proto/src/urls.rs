//! Which path is what before the tunnel (protocol.md 3).

/// A page that does not depend on the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct StaticPage {
    /// `Content-Type` of the answer.
    pub content_type: &'static str,
    /// The body.
    pub body: &'static str,
}

/// What a GET asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetPage {
    /// The login form.
    Login,
    /// The `user-profile` file, whatever the rest of the path says.
    Profile,
    /// A fixed page.
    Static(&'static StaticPage),
    /// Nothing: `404`.
    Unknown,
}

const MANIFEST: StaticPage = StaticPage {
    content_type: "text/xml",
    body: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<vpn rev=\"1.0\">\n</vpn>\n",
};
const UPDATE: StaticPage = StaticPage {
    content_type: "text/xml",
    body: "0,0,0000\n",
};
const DOWNLOADER: StaticPage = StaticPage {
    content_type: "application/x-shellscript",
    body: "#!/bin/sh\n\nexit 0",
};
const EMPTY: StaticPage = StaticPage {
    content_type: "text/html",
    body: "<html></html>\n",
};

const STATIC_PAGES: [(&str, &StaticPage); 13] = [
    ("/VPNManifest.xml", &MANIFEST),
    ("/1/VPNManifest.xml", &MANIFEST),
    ("/+CSCOT+/translation-table", &MANIFEST),
    ("/+CSCOT+/oem-customization", &MANIFEST),
    ("/1/binaries/update.txt", &UPDATE),
    ("/1/binaries/vpndownloader.sh", &DOWNLOADER),
    ("/1/index.html", &EMPTY),
    ("/1/Linux", &EMPTY),
    ("/1/Linux_64", &EMPTY),
    ("/1/Windows", &EMPTY),
    ("/1/Windows_ARM64", &EMPTY),
    ("/1/Darwin_i386", &EMPTY),
    ("/logout", &EMPTY),
];

/// Finds the page of a GET; `path` is without the query.
pub fn get_page(path: &str) -> GetPage {
    if path.starts_with("/profiles") {
        return GetPage::Profile;
    }
    if path == "/" || is_or_is_below(path, "/auth") || is_or_is_below(path, "/VPN") {
        return GetPage::Login;
    }
    STATIC_PAGES
        .iter()
        .find(|(known, _)| is_or_is_below(path, known))
        .map_or(GetPage::Unknown, |(_, page)| GetPage::Static(page))
}

/// True where a POST is a step of the login at any time.
pub fn is_login_post(path: &str) -> bool {
    matches!(path, "/" | "/auth" | "/VPN")
}

/// True for the target of a tunnel's CONNECT; without the slash it comes from the Clavister client
/// (protocol.md 5.1).
pub fn is_tunnel(path: &str) -> bool {
    matches!(path, "/CSCOSSLC/tunnel" | "CSCOSSLC/tunnel")
}

fn is_or_is_below(path: &str, known: &str) -> bool {
    path.strip_prefix(known)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_matches_the_path_and_what_is_below() {
        assert_eq!(get_page("/"), GetPage::Login);
        assert_eq!(get_page("/auth"), GetPage::Login);
        assert_eq!(get_page("/auth/x"), GetPage::Login);
        assert_eq!(get_page("/authx"), GetPage::Unknown);
        assert_eq!(get_page("/VPN"), GetPage::Login);
        assert_eq!(get_page("/1/Linux_64"), GetPage::Static(&EMPTY));
        assert_eq!(
            get_page("/+CSCOT+/translation-table"),
            GetPage::Static(&MANIFEST)
        );
        assert_eq!(get_page("/ca.pem"), GetPage::Unknown);
        assert_eq!(get_page(""), GetPage::Unknown);
        assert_eq!(get_page("//"), GetPage::Unknown);
    }

    #[test]
    fn post_matches_the_path_only() {
        assert!(is_login_post("/auth"));
        assert!(!is_login_post("/auth/"));
    }

    #[test]
    fn tunnel_with_and_without_slash() {
        assert!(is_tunnel("/CSCOSSLC/tunnel") && is_tunnel("CSCOSSLC/tunnel"));
        assert!(!is_tunnel("/CSCOSSLC/tunnel/"));
    }
}
