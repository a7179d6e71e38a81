Register-ArgumentCompleter -Native -CommandName hello-mq -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $prev = $env:_HELLO_MQ_COMPLETE;
    $env:_HELLO_MQ_COMPLETE = "powershell";

    $args = $commandAst.Extent.Text
    $args = $args.Substring(0, [math]::Min($cursorPosition, $args.Length));
    if ($wordToComplete -eq "") {
        $args += " ''";
    }

    $results = Invoke-Expression @"
& hello-mq -- $args
"@;
    if ($null -eq $prev) {
        Remove-Item Env:\_HELLO_MQ_COMPLETE;
    } else {
        $env:_HELLO_MQ_COMPLETE = $prev;
    }
    $results | ForEach-Object {
        $split = $_.Split("`t");
        $cmd = $split[0];

        if ($split.Length -eq 2) {
            $help = $split[1];
        }
        else {
            $help = $split[0];
        }

        [System.Management.Automation.CompletionResult]::new($cmd, $cmd, 'ParameterValue', $help)
    }
};
