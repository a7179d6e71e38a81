class HelloMq < Formula
  desc "Send, receive and declare on RabbitMQ from the command-line"
  homepage "https://github.com/hello-mq/hello-mq"
  url "https://github.com/hello-mq/hello-mq/archive/refs/tags/v0.1.0.tar.gz"
  # There is no released archive yet. With the first release: sha256 "..." of it, here.
  license any_of: ["MIT", "Apache-2.0"]
  head "https://github.com/hello-mq/hello-mq.git", branch: "main"

  depends_on "rust" => :build

  def install
    system "cargo", "install", *std_cargo_args

    bash_completion.install "completions/hello-mq.bash" => "hello-mq"
    zsh_completion.install "completions/_hello-mq"
    fish_completion.install "completions/hello-mq.fish"
    pwsh_completion.install "completions/hello-mq.ps1" => "_hello-mq.ps1"
    man1.install Dir["man/*.1"]
    man5.install Dir["man/*.5"]
    doc.install "config.example.toml"
  end

  test do
    assert_equal "hello-mq #{version}\n", shell_output("#{bin}/hello-mq --version")

    # Nobody listens there: a refused connection is told by the exit status.
    port = free_port
    output = shell_output("#{bin}/hello-mq send --port #{port} hello 2>&1", 69)
    assert_match "localhost:#{port}", output
  end
end
