set edit:completion:arg-completer[hello-mq] = { |@words|
    var index = (count $words)
    set index = (- $index 1)

    put (env _CLAP_IFS="\n" _CLAP_COMPLETE_INDEX=(to-string $index) _HELLO_MQ_COMPLETE="elvish" hello-mq -- $@words) | to-lines
}
